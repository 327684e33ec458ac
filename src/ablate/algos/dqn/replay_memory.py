"""DQN's replay as the learner keeps it: with its random stream, its file, and the step at which learning begins.

No torch: all backends use it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ablate.algos.dqn.spec import ACTOR, LEARNER, DQNConfig
from ablate.algos.job import WorkerJob, beating, restoring
from ablate.config.schema import ConfigError
from ablate.parallel.supervisor import ChildFailed
from ablate.records.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ablate.records.schema import LAST_CHECKPOINT, REPLAY_FILES
from ablate.replay.make import make_replay
from ablate.seeding import Role, generator, restore, state_of


class ReplayMemory:
    """The replay of a run, as it was if the run is resumed.

    target: (P,) the target network's parameters of a resumed run; else None. learn_from: the first update follows a
    later step. episodes_begun: whether the store holds the first observation of each episode under way."""

    def __init__(self, job: WorkerJob) -> None:
        config, algo = job.config, job.config.algo
        assert isinstance(algo, DQNConfig)
        assert config.replay is not None
        self._config = config
        self._checkpoints = (job.folder / LAST_CHECKPOINT).parent
        self.rng = generator(config.seed, Role.replay)
        try:
            self.replay = make_replay(
                config.replay, job.spec, config.envs_per_worker, algo.n_step, algo.gamma, self.rng, job.folder
            )
        except (OSError, MemoryError) as error:
            raise ChildFailed(f"no room for the replay (replay.capacity={config.replay.capacity}): {error}") from error
        self.episodes_begun = False
        self.learn_from = algo.warmup_steps
        self.target: np.ndarray | None = None
        resumed = job.resumed.get(LEARNER)
        if resumed is None:
            return
        with restoring(LEARNER):
            self.target = resumed.tensor("target", (job.architecture.layout().size,))
            restore(self.rng, resumed.state["rng"])
            self.learn_from = int(resumed.state["learn_from"])
            saved_replay, lanes_open = resumed.state["replay"], resumed.state["lanes_open"]
        if saved_replay:
            try:
                with beating():
                    saved = read_checkpoint(self._checkpoints / saved_replay, None)
                self.replay.restore(saved.state, saved.tensors)
            except (ConfigError, KeyError, ValueError, TypeError, IndexError) as error:
                reason = f"{type(error).__name__}: " * (not isinstance(error, ConfigError)) + str(error)
                raise ChildFailed(f"the saved replay cannot be read: {reason}; load= starts a new run") from error
            # an environment that cannot be saved begins a new episode
            continues = job.exchange.begun if job.exchange else job.resumed[ACTOR].state["env"] is not None
            self.episodes_begun = lanes_open and continues
        else:  # fill the replay as before the first update, but with steps of the policy
            self.learn_from = max(self.learn_from, job.shared.counters().steps + algo.warmup_steps)

    def begin_episodes(self, observations: np.ndarray) -> None:
        """Store the first observation (E, ...) of each episode under way, unless the store holds them."""
        if self.episodes_begun:
            return
        for env_index, observation in enumerate(observations):
            self.replay.start(env_index, observation)
        self.episodes_begun = True

    def state(self, steps: int, target: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a resume needs. With save_replay=true the replay is written to its own file, which the state names.

        It is named by the steps, because the number of updates stays 0 in the warm-up, and names would repeat."""
        name = None
        if self._config.save_replay:
            name = REPLAY_FILES.replace("*", str(steps))
            replay = self.replay.state()
            try:
                with beating():
                    write_checkpoint(self._checkpoints / name, Checkpoint(replay.tensors, replay.state))
            except OSError as error:
                raise ChildFailed(f"the replay could not be saved (save_replay=true): {error}") from error
        values = {
            "rng": state_of(self.rng),
            "learn_from": self.learn_from,
            "replay": name,
            "lanes_open": self.episodes_begun,
        }
        return values, {"target": target.copy()}
