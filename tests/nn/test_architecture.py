"""Which models fit which environments, and what is said of those that don't."""

import pytest
from helpers import config_of

from ablate.config.schema import ConfigError
from ablate.nn.architecture import architecture_of
from ablate.nn.conv_architecture import ConvArchitecture
from ablate.types import ActionSpec, EnvSpec

LSTM_42 = ["env=breakout", "model=conv_lstm_42"]
SIX, TORQUE = ActionSpec(n=6), ActionSpec(low=(-2.0,), high=(2.0,))


def made(spec: EnvSpec, *overrides: str) -> ConvArchitecture:
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
def test_sizes_are_the_reports(
    model: str, shape: tuple[int, int, int], sizes: list[tuple[int, int, int]], parameters: int
) -> None:
    architecture = made(EnvSpec(shape, SIX), "env=breakout", f"model={model}")
    assert list(architecture.sizes()) == [shape, *sizes]
    assert architecture.layout().size == parameters


def test_only_bytes_are_scaled() -> None:
    assert made(EnvSpec((4, 84, 84), SIX, None, "uint8"), "env=breakout", "model=conv_84").scale == 1 / 255
    assert made(EnvSpec((4, 84, 84), SIX, None, "float32"), "env=breakout", "model=conv_84").scale == 1.0


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
def test_what_does_not_fit_is_refused_in_one_line(spec: EnvSpec, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        architecture_of(config_of(*overrides).model, spec)
    assert "\n" not in str(refusal.value)
