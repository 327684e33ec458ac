"""The network of QArchitecture for vectors inside kernels: forward and backward over a batch, by the chain rule.

Activations are stored in one flat vector as rows of `columns` numbers, one number per transition (or environment):
first the rows of the observation, then those of each layer. So all loops run along the batch, and the same table serves
any number of columns. `deltas` holds the gradients of the loss with respect to the activations, at the same indices."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ablate.compiled.activation import ACTIVATIONS, ActivationConstants, activate, activate_backward, clamp
from ablate.compiled.gemm import gemm
from ablate.compiled.jit import helper
from ablate.nn.q_architecture import QArchitecture

# The columns of the table of layers. N_IN, N_OUT: sizes. X, Y: first row of input and output. WEIGHT, BIAS: start in
# the parameters. BY_INPUT: whether the weight is stored as (in, out), see ParameterLayout. ACTIVATES: whether an
# activation follows.
N_IN, N_OUT, X, Y, WEIGHT, BIAS, BY_INPUT, ACTIVATES = range(8)


class QNetwork(NamedTuple):
    """A table of layers (depth, 8) int64, and what follows from it."""

    layers: np.ndarray
    activation: ActivationConstants
    observation: int  # rows of the observation
    actions: int
    q: int  # first row of the action values
    rows: int  # of all activations
    dueling: bool  # the last two layers are the heads V and A


def q_network_of(architecture: QArchitecture) -> QNetwork:
    """The network; activations for a batch have `rows` times the batch size numbers."""
    layout = architecture.layout()
    (size,) = architecture.input_shape
    table = []
    x, y = 0, size

    def layer(name: str, n_in: int, n_out: int, x: int, y: int, activates: bool) -> tuple[int, ...]:
        starts = layout.starts[f"{name}.weight"], layout.starts[f"{name}.bias"]
        return n_in, n_out, x, y, *starts, n_in < n_out, activates

    for i, (n_in, n_out) in enumerate(pairwise((size, *architecture.widths))):
        table.append(layer(f"hidden.{i}", n_in, n_out, x, y, True))
        x, y = y, y + n_out
    n = architecture.actions
    if architecture.dueling:
        last = architecture.hidden[-1]
        table.append(layer("value", last, 1, x, y, False))
        table.append(layer("advantage", last, n, x + last, y + 1, False))
        q = y + 1 + n
    else:
        table.append(layer("q", architecture.widths[-1] if architecture.widths else size, n, x, y, False))
        q = y
    activation = ACTIVATIONS[architecture.activation]
    return QNetwork(np.array(table, np.int64), activation, size, n, q, q + n, architecture.dueling)


@helper
def forward(network: QNetwork, theta: np.ndarray, activations: np.ndarray, columns: int) -> None:
    """Compute all rows from those of the observations."""
    for i in range(len(network.layers)):
        layer = network.layers[i]
        n_in, n_out, start = layer[N_IN], layer[N_OUT], layer[Y] * columns
        by_input = layer[BY_INPUT] == 1
        gemm(
            activations, start, theta, layer[WEIGHT], n_out if by_input else n_in, by_input,
            activations, layer[X] * columns, columns, False, n_out, n_in, columns,
        )  # fmt: skip
        y, bias = activations[start : start + n_out * columns], theta[layer[BIAS] : layer[BIAS] + n_out]
        _add_bias(y, bias, columns)
        if layer[ACTIVATES]:
            _activate(network.activation, y)
    if network.dueling:
        _combine(network, activations, columns)


@helper
def _add_bias(y: np.ndarray, bias: np.ndarray, columns: int) -> None:
    """Each row of y has its bias."""
    if columns == 1:
        for j in range(len(bias)):
            y[j] += bias[j]
        return
    for j in range(len(bias)):
        row, b = y[j * columns : (j + 1) * columns], bias[j]
        for i in range(columns):
            row[i] += b


@helper
def _activate(activation: ActivationConstants, y: np.ndarray) -> None:
    low, high = y.dtype.type(activation.low), y.dtype.type(activation.high)
    for i in range(len(y)):
        y[i] = clamp(y[i], low, high)
    activate(activation.kind, y)


@helper
def _combine(network: QNetwork, activations: np.ndarray, columns: int) -> None:
    """Q = V + A - mean_a A (Wang et al. 2016, eq. 9)."""
    n, q = network.actions, network.q * columns
    a = q - n * columns
    v = a - columns
    for i in range(columns):
        total = activations.dtype.type(0)
        for j in range(n):
            total += activations[a + j * columns + i]
        rest = activations[v + i] - total / n
        for j in range(n):
            activations[q + j * columns + i] = activations[a + j * columns + i] + rest


@helper
def put_d_q(network: QNetwork, deltas: np.ndarray, actions: np.ndarray, d_taken: np.ndarray) -> None:
    """Write ∂L/∂ of the heads' outputs, given ∂L/∂Q(s, a) of the actions taken (B,); it is 0 for all other actions.

    Dueling: ∂V = ∂Q(s, a), and ∂A_j = ([j = a] - 1/n) ∂Q(s, a)."""
    columns, n = len(actions), network.actions
    head = network.q * columns
    share = deltas.dtype.type(0)
    if network.dueling:
        head -= n * columns
        share = deltas.dtype.type(1.0 / n)
        for i in range(columns):
            deltas[head - columns + i] = d_taken[i]
    for j in range(n):
        for i in range(columns):
            deltas[head + j * columns + i] = -share * d_taken[i]
    for i in range(columns):
        deltas[head + actions[i] * columns + i] += d_taken[i]


@helper
def backward(
    network: QNetwork,
    theta: np.ndarray,
    gradient: np.ndarray,
    activations: np.ndarray,
    deltas: np.ndarray,
    columns: int,
) -> None:
    """Write the gradient of all parameters (P,), from the heads' outputs in `deltas`."""
    for i in range(len(network.layers) - 1, -1, -1):
        layer = network.layers[i]
        n_in, n_out, x, y = layer[N_IN], layer[N_OUT], layer[X] * columns, layer[Y] * columns
        by_input = layer[BY_INPUT] == 1
        d_y = deltas[y : y + n_out * columns]
        if layer[ACTIVATES]:
            activate_backward(network.activation, d_y, activations[y : y + n_out * columns])
        # ∂W = ∂y xᵀ as (out, in), ∂b = Σ ∂y
        if by_input:
            gemm(
                gradient, layer[WEIGHT], activations, x, columns, False, deltas, y, columns, True, n_in, columns, n_out
            )
        else:
            gemm(
                gradient, layer[WEIGHT], deltas, y, columns, False, activations, x, columns, True, n_out, columns, n_in
            )
        _sum_rows(gradient[layer[BIAS] : layer[BIAS] + n_out], d_y, columns)
        if x > 0:  # ∂x = Wᵀ ∂y
            gemm(
                deltas, x, theta, layer[WEIGHT], n_out if by_input else n_in, not by_input,
                deltas, y, columns, False, n_in, n_out, columns,
            )  # fmt: skip


@helper
def _sum_rows(sums: np.ndarray, y: np.ndarray, columns: int) -> None:
    for j in range(len(sums)):
        row, total = y[j * columns : (j + 1) * columns], y.dtype.type(0)
        for i in range(columns):
            total += row[i]
        sums[j] = total
