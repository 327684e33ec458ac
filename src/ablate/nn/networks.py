"""The networks, each once on torch.nn and once on the hand-written layers, over the same flat parameter vector.

Both write gradients into a flat vector that the caller hands in, laid out like the parameters. `policy` is what acting
needs: the actor alone. N: rows of a batch, A: dimensions of an action."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.nn import layers
from ablate.nn.architecture import MlpArchitecture
from ablate.nn.distributions import Outputs


class TorchMlp(torch.nn.Module):
    """The actor-critic of MlpArchitecture on torch.nn; its parameters and their .grad are views of the flat vectors."""

    def __init__(self, architecture: MlpArchitecture, parameters: Tensor, gradient: Tensor) -> None:
        super().__init__()
        activation = {"relu": torch.nn.ReLU, "relu6": torch.nn.ReLU6, "tanh": torch.nn.Tanh, "elu": torch.nn.ELU}
        self.actor = _sequential(architecture.actor_sizes, activation[architecture.activation])
        self.critic = _sequential(architecture.critic_sizes, activation[architecture.activation])
        self._architecture = architecture
        self._mu_centre, self._mu_scale = _mu_range(architecture, parameters)
        layout = architecture.layout()
        views, gradients = layout.views(parameters), layout.views(gradient)
        linears = [m for m in (*self.actor, *self.critic) if isinstance(m, torch.nn.Linear)]
        for i, name in enumerate(n for n in views if n.endswith("weight")):
            for kind in ("weight", "bias"):
                view = name.replace("weight", kind)
                parameter = torch.nn.Parameter(views[view])
                parameter.grad = gradients[view]
                setattr(linears[i], kind, parameter)

    def policy(self, observations: Tensor) -> Outputs:
        """(N, observation) -> ((N, A), (N, A)) or ((N, n),)."""
        z = self.actor(observations)
        if not self._architecture.gaussian:
            return (z,)
        z_mu, z_sigma = z.chunk(2, -1)
        mu = self._mu_centre + self._mu_scale * torch.tanh(z_mu)
        return mu, F.softplus(z_sigma) + self._architecture.sigma_min

    def value(self, observations: Tensor) -> Tensor:
        """(N, observation) -> (N,)."""
        return self.critic(observations).squeeze(-1)


class ManualMlp:
    """The same on layers.py: forward, and backward by the chain rule, without autograd."""

    def __init__(self, architecture: MlpArchitecture, parameters: Tensor, gradient: Tensor) -> None:
        layout = architecture.layout()
        views, gradients = layout.views(parameters), layout.views(gradient)
        self._actor = _Stack("actor", architecture, views, gradients)
        self._critic = _Stack("critic", architecture, views, gradients)
        self._architecture = architecture
        self._mu_centre, self._mu_scale = _mu_range(architecture, parameters)

    def policy(self, observations: Tensor) -> Outputs:
        """(N, observation) -> ((N, A), (N, A)) or ((N, n),); keeps what `policy_backward` needs."""
        z = self._actor.forward(observations)
        if not self._architecture.gaussian:
            return (z,)
        z_mu, z_sigma = z.chunk(2, -1)
        self._tanh = layers.tanh(z_mu)
        self._softplus = layers.softplus(z_sigma)
        mu = torch.addcmul(self._mu_centre, self._mu_scale, self._tanh)
        return mu, self._softplus + self._architecture.sigma_min

    def policy_backward(self, d_outputs: Outputs) -> None:
        """From the gradients of the outputs to those of the actor's parameters."""
        if self._architecture.gaussian:
            d_mu, d_sigma = d_outputs
            d_z_mu = layers.tanh_backward(self._mu_scale * d_mu, self._tanh)
            d_z_sigma = layers.softplus_backward(d_sigma, self._softplus)
            self._actor.backward(torch.cat((d_z_mu, d_z_sigma), -1))
        else:
            self._actor.backward(d_outputs[0])

    def value(self, observations: Tensor) -> Tensor:
        """(N, observation) -> (N,); keeps what `value_backward` needs."""
        return self._critic.forward(observations).squeeze(-1)

    def value_backward(self, d_values: Tensor) -> None:
        """d_values (M,) with M ≤ N: the gradient for the first M rows; the others have none."""
        self._critic.backward(d_values.unsqueeze(-1))


class _Stack:
    """Linear, activation, linear, ... linear: one part of a ManualMlp."""

    def __init__(
        self, part: str, architecture: MlpArchitecture, views: dict[str, Tensor], gradients: dict[str, Tensor]
    ) -> None:
        depth = sum(name.startswith(part) for name in views) // 2
        self._weights = [views[f"{part}.{i}.weight"] for i in range(depth)]
        self._biases = [views[f"{part}.{i}.bias"] for i in range(depth)]
        self._d_weights = [gradients[f"{part}.{i}.weight"] for i in range(depth)]
        self._d_biases = [gradients[f"{part}.{i}.bias"] for i in range(depth)]
        self._activation, self._activation_backward = _ACTIVATIONS[architecture.activation]
        self._inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self._inputs = [x]  # of each linear layer; from the second on, the output of an activation
        for weight, bias in zip(self._weights[:-1], self._biases[:-1], strict=True):
            x = self._activation(layers.linear(x, weight, bias))
            self._inputs.append(x)
        return layers.linear(x, self._weights[-1], self._biases[-1])

    def backward(self, d_y: Tensor) -> None:
        rows = len(d_y)
        for i in range(len(self._weights) - 1, -1, -1):
            x = self._inputs[i][:rows]
            torch.mm(d_y.T, x, out=self._d_weights[i])
            torch.sum(d_y, 0, out=self._d_biases[i])
            if i > 0:
                d_y = self._activation_backward(d_y @ self._weights[i], x)


_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "relu": (layers.relu, layers.relu_backward),
    "relu6": (layers.relu6, layers.relu6_backward),
    "tanh": (layers.tanh, layers.tanh_backward),
    "elu": (layers.elu, layers.elu_backward),
}


def _sequential(sizes: tuple[int, ...], activation: type[torch.nn.Module]) -> torch.nn.Sequential:
    modules: list[torch.nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        # on `meta` nothing is allocated or initialised: the parameters are views of the flat vector
        modules += [torch.nn.Linear(n_in, n_out, device="meta"), activation()]
    return torch.nn.Sequential(*modules[:-1])


def _mu_range(architecture: MlpArchitecture, like: Tensor) -> tuple[Tensor, Tensor]:
    return like.new_tensor(architecture.mu_centre), like.new_tensor(architecture.mu_scale)
