"""The network of MlpArchitecture twice, over the same flat parameters: on torch.nn, and on the hand-written layers.

Both write gradients into a flat vector from the caller, with the layout of the parameters. T: steps of a rollout;
only the critic needs its last observation. A: dimensions of an action."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.nn import layers
from ablate.nn.activations import MANUAL_ACTIVATIONS, TORCH_ACTIVATIONS
from ablate.nn.distributions import Outputs

if TYPE_CHECKING:
    from ablate.nn.mlp_architecture import MlpArchitecture


class TorchMlp(torch.nn.Module):
    """The network on torch.nn; its parameters and their .grad are views of the flat vectors."""

    def __init__(self, architecture: MlpArchitecture, parameters: Tensor, gradient: Tensor) -> None:
        super().__init__()
        activation = TORCH_ACTIVATIONS[architecture.activation]
        self.torso = torch.nn.Sequential(*_modules(architecture.torso_sizes, activation))
        self.actor = torch.nn.Sequential(*_modules(architecture.actor_sizes, activation)[:-1])
        self.critic = torch.nn.Sequential(*_modules(architecture.critic_sizes, activation)[:-1])
        self._architecture = architecture
        self._mu_centre, self._mu_scale = _mu_range(architecture, parameters)
        layout = architecture.layout()
        views, gradients = layout.views(parameters), layout.views(gradient)
        linears = [m for m in (*self.torso, *self.actor, *self.critic) if isinstance(m, torch.nn.Linear)]
        for i, name in enumerate(n for n in views if n.endswith("weight")):
            for kind in ("weight", "bias"):
                view = name.replace("weight", kind)
                parameter = torch.nn.Parameter(views[view])
                parameter.grad = gradients[view]
                setattr(linears[i], kind, parameter)

    def forward(self, observations: Tensor) -> tuple[Outputs, Tensor]:
        """(T+1, observation) -> the policy's outputs, ((T, A), (T, A)) or ((T, n),), and values (T+1,)."""
        x = self.torso(observations)
        values = self.critic(x).squeeze(-1)
        z = self.actor(x[:-1])
        if not self._architecture.gaussian:
            return (z,), values
        z_mu, z_sigma = z.chunk(2, -1)
        mu = self._mu_centre + self._mu_scale * torch.tanh(z_mu)
        return (mu, F.softplus(z_sigma) + self._architecture.sigma_min), values


class ManualMlp:
    """The network on layers.py: forward, and backward by the chain rule, without autograd."""

    def __init__(self, architecture: MlpArchitecture, parameters: Tensor, gradient: Tensor) -> None:
        layout = architecture.layout()
        views, gradients = layout.views(parameters), layout.views(gradient)
        self._torso = _Stack("torso", architecture, views, gradients)
        self._actor = _Stack("actor", architecture, views, gradients)
        self._critic = _Stack("critic", architecture, views, gradients)
        self._has_torso = len(architecture.torso_sizes) > 1
        self._architecture = architecture
        self._mu_centre, self._mu_scale = _mu_range(architecture, parameters)

    def forward(self, observations: Tensor) -> tuple[Outputs, Tensor]:
        """(T+1, observation) -> the policy's outputs, ((T, A), (T, A)) or ((T, n),), and values (T+1,).

        Keeps what `backward` needs."""
        x = self._torso.forward(observations)
        values = self._critic.forward(x).squeeze(-1)
        z = self._actor.forward(x[:-1])
        if not self._architecture.gaussian:
            return (z,), values
        z_mu, z_sigma = z.chunk(2, -1)
        self._tanh = layers.tanh(z_mu)
        self._softplus = layers.softplus(z_sigma)
        mu = torch.addcmul(self._mu_centre, self._mu_scale, self._tanh)
        return (mu, self._softplus + self._architecture.sigma_min), values

    def backward(self, d_outputs: Outputs, d_values: Tensor) -> None:
        """From d_outputs and d_values (T,) to the gradient. The bootstrap value V(s_T) is a constant."""
        if self._architecture.gaussian:
            d_mu, d_sigma = d_outputs
            d_z_mu = layers.tanh_backward(self._mu_scale * d_mu, self._tanh)
            d_z_sigma = layers.softplus_backward(d_sigma, self._softplus)
            d_z = torch.cat((d_z_mu, d_z_sigma), -1)
        else:
            d_z = d_outputs[0]
        d_x_actor = self._actor.backward(d_z, to_input=self._has_torso)
        d_x_critic = self._critic.backward(d_values.unsqueeze(-1), to_input=self._has_torso)
        if self._has_torso:
            self._torso.backward(d_x_actor + d_x_critic, to_input=False)


class _Stack:
    """The linear layers of one part. Each has an activation, except the last of actor and critic."""

    def __init__(
        self, part: str, architecture: MlpArchitecture, views: dict[str, Tensor], gradients: dict[str, Tensor]
    ) -> None:
        depth = sum(name.startswith(part) for name in views) // 2
        self._weights = [views[f"{part}.{i}.weight"] for i in range(depth)]
        self._biases = [views[f"{part}.{i}.bias"] for i in range(depth)]
        self._d_weights = [gradients[f"{part}.{i}.weight"] for i in range(depth)]
        self._d_biases = [gradients[f"{part}.{i}.bias"] for i in range(depth)]
        self._activated = depth if part == "torso" else depth - 1  # layers with an activation, from the first on
        self._activation, self._activation_backward = MANUAL_ACTIVATIONS[architecture.activation]
        self._xs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out), or x itself if there are no layers."""
        self._xs = [x]  # the input, and the output of each activation
        for i, (weight, bias) in enumerate(zip(self._weights, self._biases, strict=True)):
            x = layers.linear(x, weight, bias)
            if i < self._activated:
                x = self._activation(x)
                self._xs.append(x)
        return x

    def backward(self, d_y: Tensor, *, to_input: bool) -> Tensor:
        """d_y (M, out) of the first M ≤ N rows (the others have no gradient) -> d_x (M, in) if to_input."""
        rows = len(d_y)
        xs = self._xs if rows == len(self._xs[0]) else [x[:rows] for x in self._xs]
        for i in range(len(self._weights) - 1, -1, -1):
            if i < self._activated:
                d_y = self._activation_backward(d_y, xs[i + 1])
            torch.mm(d_y.T, xs[i], out=self._d_weights[i])
            torch.sum(d_y, 0, out=self._d_biases[i])
            if i > 0 or to_input:
                d_y = d_y @ self._weights[i]
        return d_y


def _modules(sizes: tuple[int, ...], activation: type[torch.nn.Module]) -> list[torch.nn.Module]:
    modules: list[torch.nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        # on `meta` nothing is allocated or initialised: the parameters are views of the flat vector
        modules += [torch.nn.Linear(n_in, n_out, device="meta"), activation()]
    return modules


def _mu_range(architecture: MlpArchitecture, like: Tensor) -> tuple[Tensor, Tensor]:
    return like.new_tensor(architecture.mu_centre), like.new_tensor(architecture.mu_scale)
