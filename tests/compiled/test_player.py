"""Playing inside kernels gives the same episodes from the same stream as gymnasium with the numpy policy."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import config_of

from ablate.compiled import player as compiled_player
from ablate.compiled.player import STEPS_PER_CALL
from ablate.config.schema import Config
from ablate.envs.make import spec_of
from ablate.nn.architecture import architecture_of
from ablate.play.evaluator import GymnasiumPlayer, Player
from ablate.seeding import state_of
from ablate.types import Score

# A seed and a factor of the speed's weights, with which the parameters reach the end of the environment, if it has one.
ENVS = {"pendulum": (0, 1), "cartpole": (1, 1), "acrobot": (4, 300), "mountain_car": (12, 300),
        "mountain_car_continuous": (1, 300)}  # fmt: skip


def lengths_of_both(config: Config, episodes: int, seed: int, factor: int) -> list[int]:
    layout = architecture_of(config.model, spec_of(config.env)).layout()
    parameters = np.zeros(layout.size, np.float32)
    layout.initialise(parameters, np.random.default_rng(seed), 0.2)
    layout.views(parameters)["actor.0.weight"][:, -1] *= factor
    return lengths_with(parameters, config, episodes)


def lengths_with(parameters: np.ndarray, config: Config, episodes: int) -> list[int]:
    """Play episodes with each player. Episodes must be equal, apart from float32 rounding, and so must be the stream
    afterwards."""
    spec = spec_of(config.env)
    name = "CompiledQPlayer" if config.model.gives_action_values else "CompiledPlayer"
    scores: list[list[Score]] = []
    streams = []
    for kind in (GymnasiumPlayer, getattr(compiled_player, name)):
        player: Player = kind(config, spec, architecture_of(config.model, spec))
        rng = np.random.default_rng(1)
        scores.append(list(player.play(parameters, episodes, rng)))
        streams.append(state_of(rng))
    theirs, ours = scores
    assert [score.episodic_length for score in ours] == [score.episodic_length for score in theirs]
    assert [score.episodic_return for score in ours] == pytest.approx([s.episodic_return for s in theirs], rel=1e-5)
    assert streams[0] == streams[1]
    return [score.episodic_length for score in ours]


@pytest.mark.parametrize("action", ["mode", "sample"])
@pytest.mark.parametrize("env", ENVS)
def test_kernels_play_the_same_episodes_as_gymnasium(env: str, action: str) -> None:
    config = config_of(f"env={env}", f"evaluation.action={action}", "env.max_ep_step=250")
    lengths = lengths_of_both(config, 10, *ENVS[env])
    assert min(lengths) == 250 if env == "pendulum" else min(lengths) < 250


@pytest.mark.parametrize("horizon", [30, STEPS_PER_CALL + 50])
@pytest.mark.parametrize("action", ["mode", "sample"])
def test_the_horizon_ends_an_episode_of_several_kernel_calls(action: str, horizon: int) -> None:
    config = config_of("env=mountain_car", f"evaluation.action={action}", f"evaluation.horizon={horizon}")
    assert lengths_of_both(config, 3, seed=0, factor=1) == [horizon] * 3  # a random policy stays in the valley


@pytest.mark.parametrize("action", ["mode", "sample"])
def test_kernels_play_the_same_episodes_by_action_values(action: str) -> None:
    config = config_of(
        "algo=dqn", "env=cartpole", f"evaluation.action={action}", "env.max_ep_step=120", "algo.evaluation_epsilon=0.3",
        "model.dueling=true", "model.hidden=[9,6]",
    )  # fmt: skip
    architecture = architecture_of(config.model, spec_of(config.env))
    parameters = np.zeros(architecture.layout().size, np.float32)
    architecture.initialise(parameters, np.random.default_rng(3))
    lengths = lengths_with(parameters, config, 10)
    assert len(lengths) == 10
    assert len(set(lengths)) > 1
