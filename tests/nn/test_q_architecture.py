"""Networks of action values as data: sizes, initialisation, and which models fit which environments."""

from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from omegaconf import OmegaConf

from ablate.config.schema import ConfigError, ModelConfig, QConfig
from ablate.nn.architecture import architecture_of, initial_parameters
from ablate.nn.q_architecture import QArchitecture
from ablate.types import ActionSpec, EnvSpec

FOUR, TORQUE = ActionSpec(n=4), ActionSpec(low=(-2.0,), high=(2.0,))


def model(name: str, **changes: object) -> ModelConfig:
    """The configuration in conf/model/<name>.yaml, with changes."""
    values = OmegaConf.load(Path(ROOT / f"conf/model/{name}.yaml"))
    del values["defaults"]
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(QConfig), values, changes))
    assert isinstance(config, QConfig)
    return config


def architecture_for(name: str, spec: EnvSpec, **changes: object) -> QArchitecture:
    architecture = architecture_of(model(name, **changes), spec)
    assert isinstance(architecture, QArchitecture)
    return architecture


@pytest.mark.parametrize(
    ("name", "shape", "sizes", "parameters"),
    [
        ("dqn_84", (4, 84, 84), [(32, 20, 20), (64, 9, 9), (64, 7, 7)],
         32 * 4 * 64 + 64 * 32 * 16 + 64 * 64 * 9 + 512 * 3137 + 4 * 513),
        ("dqn_early", (4, 180, 160), [(32, 44, 39), (64, 21, 18), (128, 19, 16)],
         8224 + 32832 + 128 * (64 * 9 + 1) + 512 * (128 * 19 * 16 + 1) + 4 * 513),
    ],
)  # fmt: skip
def test_sizes_are_those_of_the_reports(
    name: str, shape: tuple[int, ...], sizes: list[tuple[int, int, int]], parameters: int
) -> None:
    architecture = architecture_for(name, EnvSpec(shape, FOUR, None, "uint8"))
    assert list(architecture.sizes()) == [shape, *sizes]
    assert architecture.layout().size == parameters
    assert architecture.scale == 1 / 255


def test_sizes_of_a_network_for_vectors() -> None:
    architecture = architecture_for("dqn_mlp", EnvSpec((4,), ActionSpec(n=2)))
    assert architecture.layout().size == 5 * 120 + 121 * 84 + 85 * 2
    assert architecture.scale == 1.0


def test_dueling_has_its_last_hidden_layer_twice() -> None:
    architecture = architecture_for("dqn_mlp", EnvSpec((4,), ActionSpec(n=3)), dueling=True)
    assert architecture.layout().size == 5 * 120 + 121 * 2 * 84 + 85 * (1 + 3)
    assert list(architecture.layout().shapes)[-4:] == [
        "value.weight",
        "value.bias",
        "advantage.weight",
        "advantage.bias",
    ]


def test_initialisation_is_kaiming_normal() -> None:
    spec = EnvSpec((4, 84, 84), FOUR, None, "uint8")
    config = model("dqn_early", input=[4, 84, 84])
    architecture = architecture_of(config, spec)
    flat = initial_parameters(architecture, np.random.default_rng(0))
    assert flat.dtype == np.float32
    for name, view in architecture.layout().views(flat).items():
        if name.endswith("bias"):
            assert not view.any()
        else:
            std = np.sqrt(2 / np.prod(view.shape[1:]))
            assert view.std() == pytest.approx(std, rel=4 / np.sqrt(2 * view.size)), name  # 4 standard errors
            assert abs(view.mean()) < 4 * std / np.sqrt(view.size), name
    wide = model("dqn_mlp", hidden=[1000], init_gain=0.5)
    mlp = architecture_of(wide, EnvSpec((400,), FOUR))
    flat = initial_parameters(mlp, np.random.default_rng(0))
    assert mlp.layout().views(flat)["hidden.0.weight"].std() == pytest.approx(0.5 / 20, rel=0.01)


@pytest.mark.parametrize(
    ("spec", "name", "changes", "message"),
    [
        (EnvSpec((3,), TORQUE), "dqn_mlp", {}, "algo=dqn: it needs discrete actions"),
        (EnvSpec((1, 42, 42), FOUR), "dqn_mlp", {},
         r"model\.input=null: the observation is an image, \[1, 42, 42\]; use .* model=dqn_84"),
        (EnvSpec((4,), FOUR), "dqn_84", {},
         r"model\.input=\[4, 84, 84\]: the observation is not an image, \[4\]; use model=dqn_mlp"),
        (EnvSpec((4,), FOUR), "dqn_mlp", {"convolutions": [{"channels": 8, "kernel": 3}]},
         r"model\.convolutions: the observation is not an image, \[4\]; use model=dqn_mlp"),
        (EnvSpec((1, 42, 42), FOUR), "dqn_84", {},
         r"model\.input=\[4, 84, 84\]: the observation is \[1, 42, 42\]; choose a model and a preprocessing that fit"),
        (EnvSpec((4, 84, 84), FOUR), "dqn_84", {"convolutions": [{"channels": 8, "kernel": 85}]},
         r"model\.convolutions: nothing is left of \[84, 84\] pixels after convolution 0 \(kernel 85, stride 1"),
        (EnvSpec((4, 84, 84), FOUR), "dqn_84", {"convolutions": [{"channels": 8, "kernel": 8, "pool": True}]},
         r"model\.convolutions: model\.name=q has no pooling; use strides"),
        (EnvSpec((4, 84, 84), FOUR, None, "float32"), "dqn_84", {},
         r"algo=dqn: its replay keeps images as bytes, but these are float32; .* preprocessing=nature_84, or algo=a3c"),
        (EnvSpec((4,), FOUR), "dqn_mlp", {"hidden": [], "dueling": True},
         r"model\.dueling=true: .* model\.hidden=\[\] has none; give a width"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_is_refused_in_one_line(
    spec: EnvSpec, name: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        architecture_of(model(name, **changes), spec)
    assert "\n" not in str(refusal.value)
