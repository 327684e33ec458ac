"""The actor-critic of MlpArchitecture inside kernels: forward per row, backward over a rollout, by the chain rule.

Activations are stored in one flat vector, in blocks of (t_max + 1, n): first the observations, each followed by a 1,
then the output of each layer. `deltas` holds the gradients of the loss with respect to them, at the same indices."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ablate.compiled.activation import ACTIVATIONS, CLAMP, IDENTITY, ActivationConstants, activate_backward
from ablate.compiled.jit import helper, leaf
from ablate.compiled.matrix import Matrix, affine, clamped_product, product, row, transposed
from ablate.nn.mlp_architecture import MlpArchitecture

# The columns of a table of layers. N_IN, N_OUT: sizes. X, X_ROW: start of the input, and length of its rows. Y, WEIGHT,
# BIAS: start of output, weight and bias. ROW, COLUMN: strides of the weight as a Matrix (in, out). JOINED: whether the
# bias is one more row of the weight, for an input that is always 1. ACTIVATES: whether an activation follows. WANTS_DX:
# whether the gradient of the input is needed. ADDS_DX: whether it is added to the gradient that is stored there.
N_IN, N_OUT, X, X_ROW, Y, WEIGHT, ROW, COLUMN, BIAS, JOINED, ACTIVATES, WANTS_DX, ADDS_DX = range(13)


class Network(NamedTuple):
    """Tables of layers, each (depth, 13) int64, and indices that follow from them."""

    torso: np.ndarray
    actor: np.ndarray
    critic: np.ndarray
    activation: ActivationConstants
    observation: int  # size of an observation
    outputs: int  # number of the actor's outputs
    z: int  # index of the actor's first output
    v: int  # index of the critic's first output


def network_of(architecture: MlpArchitecture, t_max: int, dtype: type) -> tuple[Network, np.ndarray]:
    """The network for rollouts of up to t_max steps, and memory for its activations."""
    layout = architecture.layout()
    rows, observation = t_max + 1, architecture.torso_sizes[0]
    end = rows * (observation + 1)
    tables: dict[str, np.ndarray] = {}
    x = torso_y = 0
    for part in ("torso", "actor", "critic"):
        x = torso_y
        sizes = getattr(architecture, f"{part}_sizes")
        table = np.zeros((len(sizes) - 1, 13), np.int64)
        for i, (n_in, n_out) in enumerate(pairwise(sizes)):
            by_input = n_in < n_out  # see ParameterLayout
            table[i] = (
                n_in, n_out, x, n_in if x > 0 else n_in + 1, end, layout.starts[f"{part}.{i}.weight"],
                n_out if by_input else 1, 1 if by_input else n_in, layout.starts[f"{part}.{i}.bias"],
                by_input and x == 0, part == "torso" or i < len(sizes) - 2, x > 0, part == "actor" and i == 0,
            )  # fmt: skip
            x = end
            end += rows * n_out
        tables[part] = table
        if part == "torso":
            torso_y = x
    z, v = int(tables["actor"][-1, Y]), int(tables["critic"][-1, Y])
    activation = ACTIVATIONS[architecture.activation]
    network = Network(
        **tables,
        activation=activation,
        observation=observation,
        outputs=architecture.actor_sizes[-1],
        z=z,
        v=v,
    )
    activations: np.ndarray = np.zeros(end, dtype)
    activations[observation : rows * (observation + 1) : observation + 1] = 1.0
    return network, activations


@leaf
def forward(
    layers: np.ndarray,
    activation: ActivationConstants,
    theta: np.ndarray,
    activations: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Compute the outputs of some layers for rows `start` to `stop` - 1 of the rollout."""
    for i in range(len(layers)):
        layer = layers[i]
        n_in, n_out = layer[N_IN], layer[N_OUT]
        x, y = Matrix(activations, layer[X], layer[X_ROW], 1), Matrix(activations, layer[Y], n_out, 1)
        w = Matrix(theta, layer[WEIGHT], layer[ROW], layer[COLUMN])
        b = theta[layer[BIAS] : layer[BIAS] + n_out]
        for t in range(start, stop):
            affine(activation if layer[ACTIVATES] else IDENTITY, row(y, t, n_out), row(x, t, n_in), w, b)


@helper
def backward(
    network: Network,
    theta: np.ndarray,
    gradient: np.ndarray,
    activations: np.ndarray,
    deltas: np.ndarray,
    actors: np.ndarray,
    steps: int,
) -> None:
    """Write the gradient of all parameters (P,) from ∂L/∂z and ∂L/∂v in `deltas`, over `steps` rows.

    actors: memory for the actor's share of the gradient of the torso's output."""
    a = network.activation
    layers_backward(network.critic, a, theta, gradient, activations, deltas, actors, steps)
    layers_backward(network.actor, a, theta, gradient, activations, deltas, actors, steps)
    layers_backward(network.torso, a, theta, gradient, activations, deltas, actors, steps)


@helper
def layers_backward(
    layers: np.ndarray,
    activation: ActivationConstants,
    theta: np.ndarray,
    gradient: np.ndarray,
    activations: np.ndarray,
    deltas: np.ndarray,
    actors: np.ndarray,
    steps: int,
) -> None:
    """`backward` for the layers of one part: torso, actor or critic."""
    derived = False  # whether the layer after this one has already multiplied by this one's derivative
    for i in range(len(layers) - 1, -1, -1):
        layer = layers[i]
        n_in, n_out = layer[N_IN], layer[N_OUT]
        x, d_y = Matrix(activations, layer[X], layer[X_ROW], 1), Matrix(deltas, layer[Y], n_out, 1)
        if layer[ACTIVATES] and not derived:
            block = slice(layer[Y], layer[Y] + steps * n_out)
            activate_backward(activation, deltas[block], activations[block])
        # ∂W = xᵀ ∂y, ∂b = Σ_t ∂y_t
        d_w = Matrix(gradient, layer[WEIGHT], layer[ROW], layer[COLUMN])
        product(d_w, transposed(x), d_y, n_in + layer[JOINED], steps, n_out)
        if not layer[JOINED]:
            d_b = gradient[layer[BIAS] : layer[BIAS] + n_out]
            d_b[:] = 0
            for t in range(steps):
                for j in range(n_out):
                    d_b[j] += deltas[layer[Y] + t * n_out + j]
        derived = False
        if layer[WANTS_DX]:  # ∂x = ∂y Wᵀ
            w_t = transposed(Matrix(theta, layer[WEIGHT], layer[ROW], layer[COLUMN]))
            if i > 0 and n_out <= 2 and steps >= 2 and w_t.column == 1 and activation.kind == CLAMP:
                derived = True
                d_x = Matrix(deltas, layer[X], n_in, 1)
                clamped_product(d_x, d_y, w_t, x, activation, steps, n_out, n_in)
            elif layer[ADDS_DX]:
                product(Matrix(actors, layer[X], n_in, 1), d_y, w_t, steps, n_out, n_in)
                for j in range(layer[X], layer[X] + steps * n_in):
                    deltas[j] += actors[j]
            else:
                product(Matrix(deltas, layer[X], n_in, 1), d_y, w_t, steps, n_out, n_in)
