"""An episode that terminates in the step in which a limit cuts it: termination wins, and both are recorded."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import config_of, job_of, work

from ablate.algos.dqn import learner as dqn
from ablate.types import EpisodeRecord, Experience

# The environment terminates after 15 steps; so does the limit.
ENV = ("env.id=faulty_envs:NanReward-v0", "+env.kwargs.after=1000000", "env.max_ep_step=15")


@pytest.mark.parametrize("algo", ["a3c", "dqn"])
@pytest.mark.parametrize("bootstrap", [True, False])
def test_both_flags_are_recorded(algo: str, bootstrap: bool, tmp_path: Path) -> None:
    options = ("algo.warmup_steps=40", "replay.capacity=100", "algo.batch_size=4") if algo == "dqn" else ()
    config = config_of(
        f"algo={algo}", *ENV, "schedule=interleaved", "workers=1", "max_episodes=6", "total_steps=null",
        "evaluation.every_steps=null", "backend=manual", f"algo.bootstrap_truncated={str(bootstrap).lower()}", *options,
    )  # fmt: skip
    if algo == "dqn":
        messages: list[object] = []
        try:
            dqn.learn(messages.append, job_of(config, tmp_path)._replace(members=(0, 1)))
        finally:
            torch.set_flush_denormal(False)  # a learner sets it for its whole process
    else:
        messages = work(job_of(config, tmp_path))
    ended = [message for message in messages if isinstance(message, EpisodeRecord)]
    assert len(ended) >= 6
    assert {(episode.terminated, episode.truncated) for episode in ended} == {(True, True)}
    assert {episode.episodic_length for episode in ended} == {15}


def test_nothing_follows_a_termination_at_the_limit() -> None:
    flags = np.array([[(False, False), (True, False), (False, True), (True, True)]])
    terminated, cut = flags[..., 0], flags[..., 1]
    experience = Experience(**dict.fromkeys(Experience._fields))._replace(terminated=terminated, cut=cut)
    assert experience.nothing_follows(True).tolist() == [[False, True, False, True]]
    assert experience.nothing_follows(False).tolist() == [[False, True, True, True]]
