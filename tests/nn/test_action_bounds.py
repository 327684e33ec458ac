"""Bounds of a box: each dimension takes its range from its own bounds, and no action lies outside of the space."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import config_of

from ablate.compiled.head import head_of
from ablate.config.schema import ConfigError
from ablate.envs.make import spec_of
from ablate.nn.architecture import architecture_of
from ablate.nn.mlp_architecture import MlpArchitecture
from ablate.types import ActionSpec, EnvSpec

INF = float("inf")
FLOAT32_MAX = float(np.finfo(np.float32).max)


def architecture(low: tuple[float, ...], high: tuple[float, ...], mu_scale: float | None) -> MlpArchitecture:
    model = config_of(f"model.mu_scale={'null' if mu_scale is None else mu_scale}").model
    made = architecture_of(model, EnvSpec((3,), ActionSpec(low=low, high=high)))
    assert isinstance(made, MlpArchitecture)
    return made


@pytest.mark.parametrize(
    ("low", "high", "mu_scale", "centre", "scale"),
    [
        pytest.param((-2.0, 0.0), (2.0, 10.0), None, (0.0, 5.0), (2.0, 5.0), id="two bounds each"),
        pytest.param((-2.0, 0.0), (2.0, 10.0), 1.0, (0.0, 5.0), (1.0, 1.0), id="two bounds each, with a scale"),
        pytest.param(
            (0.0, -INF), (10.0, INF), 1.0, (5.0, 0.0), (5.0, 1.0), id="a throttle and a torque without bounds"
        ),
        pytest.param((-INF, 0.0), (INF, 10.0), 2.0, (0.0, 5.0), (2.0, 5.0), id="the other way round"),
        pytest.param((3.0, -INF), (INF, 7.0), 2.0, (5.0, 5.0), (2.0, 2.0), id="one bound each"),
        pytest.param((-INF, -INF), (INF, INF), 3.0, (0.0, 0.0), (3.0, 3.0), id="no bounds"),
        pytest.param(
            (-FLOAT32_MAX, 0), (FLOAT32_MAX, 1), 3.0, (0.0, 0.5), (3.0, 0.5), id="the largest float is no bound"
        ),
    ],
)
def test_each_dimension_takes_the_range_of_its_own_bounds(
    low: tuple[float, ...], high: tuple[float, ...], mu_scale: float | None, centre: object, scale: object
) -> None:
    made = architecture(low, high, mu_scale)
    assert (made.mu_centre, made.mu_scale) == (centre, scale)


def test_the_dimension_without_bounds_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^model\.mu_scale=null: dimension 1 of the action does not have two bounds"):
        architecture((0.0, -INF), (10.0, INF), None)


def test_all_networks_share_the_range() -> None:
    """With parameters of 0, mu is the centre; with huge outputs it is an end of the range."""
    made, action = architecture((0.0, -INF), (10.0, INF), 1.0), ActionSpec(low=(0.0, -INF), high=(10.0, INF))
    size = made.layout().size
    for bias, expected in ((0.0, (5.0, 0.0)), (50.0, (10.0, 1.0)), (-50.0, (0.0, -1.0))):
        flat = np.zeros(size, np.float32)
        views = made.layout().views(flat)
        views[[name for name in views if name.startswith("actor") and name.endswith("bias")][-1]][:2] = bias
        parameters, gradient = torch.from_numpy(flat), torch.zeros(size)
        observations = torch.zeros((2, 3))  # the last row is the one to bootstrap from
        (torch_mu, _), _ = made.torch_network(parameters, gradient)(observations)
        (manual_mu, _), _ = made.manual_network(parameters, gradient).forward(observations)
        acted = made.acting(flat, action).mode(np.zeros(3, np.float32))
        head = head_of(made, action, np.float32)
        for mu in (torch_mu[0].tolist(), manual_mu[0].tolist(), acted, head.centre + head.scale * np.tanh(bias)):  # type: ignore[union-attr]
            np.testing.assert_allclose(mu, expected, rtol=1e-6)


def test_a_policy_saved_with_the_old_range_is_refused() -> None:
    """It was trained with another range in the dimensions that have bounds."""
    spec = asdict(EnvSpec((3,), ActionSpec(low=(0.0, -INF), high=(10.0, INF))))
    del spec["action"]["dtype"]
    model = config_of("model.mu_scale=1").model
    with pytest.raises(ConfigError, match="this checkpoint was saved when an action without bounds changed the range"):
        architecture_of(model, EnvSpec.from_dict(spec))
    spec["action"] |= {"low": [-INF, -INF], "high": [INF, INF]}
    architecture_of(model, EnvSpec.from_dict(spec))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_action_never_lies_outside_of_its_box(dtype: type) -> None:
    """0.1, 0.3 and -0.7 are between two numbers of float32."""
    box = spaces.Box(np.array([0.1, -0.7], dtype), np.array([0.3, -0.1], dtype), dtype=dtype)
    action = ActionSpec(low=tuple(box.low.tolist()), high=tuple(box.high.tolist()), dtype=str(box.dtype))
    made = architecture_of(config_of().model, EnvSpec((3,), action))
    acting = made.acting(np.zeros(made.layout().size, np.float32), action)
    for value in (-9.0, 9.0, *action.low, *action.high):
        given = acting.to_env(np.full(2, value, np.float32))
        assert given.dtype == dtype
        assert box.contains(given), (value, given)
    assert isinstance(made, MlpArchitecture)
    head = head_of(made, action, np.float32)
    assert (np.float64(head.low) >= box.low).all()  # type: ignore[union-attr]
    assert (np.float64(head.high) <= box.high).all()  # type: ignore[union-attr]
    if dtype == np.float32:
        assert np.array_equal(head.low, box.low)  # type: ignore[union-attr]


def test_an_action_has_the_type_of_the_space_of_its_environment() -> None:
    assert spec_of(config_of("env.id=faulty_envs:DoubleBox-v0").env).action.dtype == "float64"
    assert spec_of(config_of("env=pendulum").env).action == ActionSpec(low=(-2.0,), high=(2.0,))


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("Bytes", "its observations are bytes, shape (12,), which the network takes unscaled"),
        ("HalfBounded", "1 of 2 dimensions of its action lack a bound; model.mu_scale is for these"),
    ],
)
def test_what_a_user_should_know_of_the_spaces_is_a_note(name: str, note: str) -> None:
    notes = spec_of(config_of(f"env.id=faulty_envs:{name}-v0", "model.mu_scale=1").env).notes
    assert any(note in line for line in notes), notes
