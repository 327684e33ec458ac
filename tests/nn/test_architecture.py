"""Which models fit which environments, what is refused, and network kinds from outside."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from helpers import config_of

from ablate.config.schema import ConfigError, ModelConfig
from ablate.nn import architecture as architecture_module
from ablate.nn.acting import Action
from ablate.nn.architecture import architecture_of, initial_parameters, register_architecture
from ablate.nn.architecture_base import Architecture
from ablate.nn.conv_architecture import ConvArchitecture
from ablate.nn.params import ParameterLayout
from ablate.types import ActionSpec, EnvSpec

LSTM_42 = ["env=breakout", "model=conv_lstm_42"]
SIX, TORQUE = ActionSpec(n=6), ActionSpec(low=(-2.0,), high=(2.0,))


def architecture_for(spec: EnvSpec, *overrides: str) -> ConvArchitecture:
    architecture = architecture_of(config_of(*overrides).model, spec)
    assert isinstance(architecture, ConvArchitecture)
    return architecture


@pytest.mark.parametrize(
    ("model", "shape", "sizes", "parameters"),
    [
        ("conv_lstm_42", (1, 42, 42), [(32, 21, 21), (32, 11, 11), (32, 6, 6), (32, 3, 3)],
         320 + 3 * 9248 + 4 * 256 * (288 + 256 + 2) + 7 * 257),
        ("conv_pool_lstm_80", (1, 80, 80), [(32, 40, 40), (32, 19, 19), (64, 9, 9), (64, 4, 4)],
         832 + 25632 + 32832 + 36928 + 4 * 512 * (1024 + 512 + 2) + 7 * 513),
        ("conv_84", (4, 84, 84), [(32, 20, 20), (64, 9, 9), (64, 7, 7)],
         8224 + 32832 + 36928 + 512 * 3137 + 7 * 513),
    ],
)  # fmt: skip
def test_sizes_are_those_of_the_reports(
    model: str, shape: tuple[int, int, int], sizes: list[tuple[int, int, int]], parameters: int
) -> None:
    architecture = architecture_for(EnvSpec(shape, SIX), "env=breakout", f"model={model}")
    assert list(architecture.sizes()) == [shape, *sizes]
    assert architecture.layout().size == parameters


def test_only_bytes_are_scaled() -> None:
    assert architecture_for(EnvSpec((4, 84, 84), SIX, None, "uint8"), "env=breakout", "model=conv_84").scale == 1 / 255
    assert architecture_for(EnvSpec((4, 84, 84), SIX, None, "float32"), "env=breakout", "model=conv_84").scale == 1.0


@pytest.mark.parametrize(
    ("spec", "overrides", "message"),
    [
        (EnvSpec((4, 84, 84), SIX), LSTM_42,
         r"model\.input=\[1, 42, 42\]: the observation is \[4, 84, 84\]; choose a model and a preprocessing that fit"),
        (EnvSpec((3,), TORQUE), LSTM_42, r"the observation is not an image, \[3\]; use model=mlp"),
        (EnvSpec((1, 42, 42), SIX), ["model=mlp"], r"model\.name=mlp: the observation is an image, \[1, 42, 42\]"),
        (EnvSpec((1, 42, 42), TORQUE), LSTM_42, r"model\.name=conv: it needs discrete actions"),
        (EnvSpec((1, 42, 42), SIX), [*LSTM_42, "model.convolutions=[{channels: 8, kernel: 43}]"],
         r"model\.convolutions: nothing is left of \[42, 42\] pixels after convolution 0 \(kernel 43, stride 1"),
        (EnvSpec((1, 80, 80), SIX),
         ["env=breakout", "model=conv_pool_lstm_80",
          "model.convolutions=[{channels: 8, kernel: 40, stride: 20}, {channels: 8, kernel: 3, pool: true}]"],
         r"nothing is left of \[3, 3\] pixels after convolution 1 \(kernel 3, stride 1, padding 0, pooled\)"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_is_refused_in_one_line(spec: EnvSpec, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        architecture_of(config_of(*overrides).model, spec)
    assert "\n" not in str(refusal.value)


def test_the_initialisation_does_not_make_another_network() -> None:
    spec = EnvSpec((1, 42, 42), SIX)
    one = architecture_for(spec, *LSTM_42)
    other = architecture_for(spec, *LSTM_42, "model.init_gain=3.0")
    assert one == other
    assert one.init_gain != other.init_gain


@dataclass(frozen=True)
class ConstantArchitecture(Architecture):
    """A user's own kind of network: one value per action, whatever it observes."""

    actions: int

    @property
    def is_image(self) -> bool:
        return False

    def layout(self) -> ParameterLayout:
        return ParameterLayout([("value", (self.actions,))])

    def initialise(self, flat: np.ndarray, rng: np.random.Generator) -> None:
        flat[:] = rng.standard_normal(len(flat))

    def torch_network(self, parameters: torch.Tensor, gradient: Any, *args: Any, **kwargs: Any) -> torch.nn.Module:
        raise AssertionError("not needed here")

    def acting(self, parameters: np.ndarray, action: ActionSpec, envs: int = 1, epsilon: float = 0.0) -> Action:
        return int(parameters.argmax())


def build_constant(model: ModelConfig, env: EnvSpec) -> ConstantArchitecture:
    assert env.action.n is not None
    return ConstantArchitecture(env.action.n)


def test_a_kind_of_network_can_be_registered_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture_module, "ARCHITECTURES", dict(architecture_module.ARCHITECTURES))
    model = ModelConfig(name="constant")
    with pytest.raises(ConfigError, match=r"^model\.name=constant: there is no such network; use one of conv, mlp, q$"):
        architecture_of(model, EnvSpec((3,), SIX))
    register_architecture("constant", build_constant)
    register_architecture("constant", build_constant)  # a module may be imported under two names
    architecture = architecture_of(model, EnvSpec((3,), SIX))
    assert architecture == ConstantArchitecture(6)
    parameters = initial_parameters(architecture, np.random.default_rng(0))
    assert (parameters.shape, parameters.dtype) == ((6,), np.float32)
    assert architecture.acting(parameters, SIX) == parameters.argmax()
    assert architecture.memory_mb("manual", rows=1000) == 0
    with pytest.raises(ConfigError, match=r"^backend=manual: ConstantArchitecture has no hand-written network; use"):
        architecture.manual_network(torch.zeros(6), torch.zeros(6))


def test_the_name_of_a_network_cannot_be_taken_twice() -> None:
    with pytest.raises(ValueError, match=r"^model\.name=mlp is registered already$"):
        register_architecture("mlp", build_constant)
