"""The flat vector and its named views."""

import numpy as np
import pytest
import torch

from ablate.nn.params import ParameterLayout

SHAPES = {
    "tall": (4, 3), "bias": (4,), "wide": (2, 5), "square": (3, 3),
    "column": (4, 1), "row": (1, 4), "conv": (4, 2, 3, 3),
}  # fmt: skip
LAYOUT = ParameterLayout(SHAPES.items())


def hand_made() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The expected flat vector, and its random parameters by name."""
    rng = np.random.default_rng(0)
    parameters = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    parts = [parameters[name].T.ravel() if name == "tall" else parameters[name].ravel() for name in SHAPES]
    return np.concatenate(parts), parameters


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_views_have_the_parameters_shapes_with_the_longer_side_contiguous(library: str) -> None:
    flat, parameters = hand_made()
    views = LAYOUT.views(flat if library == "numpy" else torch.from_numpy(flat))
    assert list(views) == list(SHAPES)
    for name, view in views.items():
        array, start = np.asarray(view), LAYOUT.starts[name]
        assert array.shape == SHAPES[name]
        np.testing.assert_array_equal(array, parameters[name])
        np.testing.assert_array_equal(array.ravel("K"), flat[start : start + array.size])


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_writing_to_a_view_writes_to_the_vector(library: str) -> None:
    expected, parameters = hand_made()
    flat = np.zeros(LAYOUT.size)
    for name, view in LAYOUT.views(flat if library == "numpy" else torch.from_numpy(flat)).items():
        view[...] = parameters[name] if library == "numpy" else torch.from_numpy(parameters[name])
    np.testing.assert_array_equal(flat, expected)


def test_initial_parameters_do_not_depend_on_the_order_in_memory() -> None:
    flat = np.zeros(LAYOUT.size, np.float32)
    LAYOUT.initialise(flat, np.random.default_rng(1), 0.1)
    rng = np.random.default_rng(1)
    for name, view in LAYOUT.views(flat).items():
        drawn = np.zeros(4) if name == "bias" else 0.1 * rng.standard_normal(SHAPES[name])  # row by row of (out, in)
        np.testing.assert_array_equal(view, drawn.astype(np.float32))


def test_a_parameter_can_be_stored_in_another_order() -> None:
    layout = ParameterLayout(SHAPES.items(), {"conv": (0, 2, 3, 1), "tall": (0, 1), "wide": (1, 0)})
    flat = np.arange(float(layout.size))
    for views in (layout.views(flat), layout.views(torch.from_numpy(flat))):
        arrays = {name: np.asarray(view) for name, view in views.items()}
        assert {name: array.shape for name, array in arrays.items()} == SHAPES
        for name, memory in {"conv": (4, 3, 3, 2), "tall": (4, 3), "wide": (5, 2), "square": (3, 3)}.items():
            start = layout.starts[name]
            part = flat[start : start + arrays[name].size].reshape(memory)
            expected = part.transpose(0, 3, 1, 2) if name == "conv" else part.T if name == "wide" else part
            np.testing.assert_array_equal(arrays[name], expected)
    np.testing.assert_array_equal(layout.block(flat, "bias", "wide"), flat[12:26])
