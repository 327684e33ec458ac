"""REINFORCE with a baseline, as an algorithm of your own: this file, a YAML file, and no change in src/.

    cd examples/my_algorithm
    python ../../src/run.py plugins=[reinforce] algo=reinforce env=cartpole total_steps=50000

The run has the same files as any other run. It can be resumed, evaluated and plotted, and swept over with `-m`."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np
from omegaconf import MISSING
from pydantic import Field
from pydantic.dataclasses import dataclass

from ablate.algos.algorithm import Algorithm, Process, register
from ablate.algos.job import WorkerJob, process_state
from ablate.algos.rounds import Send, rounds
from ablate.config.schema import AlgoConfig, Config, ConfigError, Fraction, NonNegative
from ablate.envs.make import make_env
from ablate.parallel.heartbeat import beat
from ablate.seeding import Role, draw_seed, generator, restore, state_of
from ablate.types import EpisodeRecord, ProcessState


@dataclass
class ReinforceConfig(AlgoConfig):
    """The keys of conf/algo/reinforce.yaml."""

    name: Annotated[str, Field(pattern="^reinforce$")] = "reinforce"
    gamma: Fraction = MISSING
    value_loss_coef: NonNegative = MISSING

    def refuse(self, config: Config) -> None:
        if config.model.gives_action_values or config.model.takes_images:
            raise ConfigError(f"model.name={config.model.name}: REINFORCE needs a policy on vectors; use model=mlp")


class UpdateRecord(NamedTuple):
    """A row of updates.csv. The first three columns are common to all algorithms."""

    update: int
    global_step: int
    wall_time_s: float
    policy_loss: float
    value_loss: float
    grad_norm: float
    learning_rate: float


class Reinforce(Algorithm):
    """One process; an update per episode."""

    name = "reinforce"
    config_class = ReinforceConfig
    update_record = UpdateRecord

    def processes(self, config: Config) -> list[Process]:
        return [Process("learner", __name__, "learn", (0,))]


register(Reinforce())


def learn(send: Send, job: WorkerJob) -> None:
    """The process that trains. Only it imports torch."""
    import torch

    from ablate.nn.distributions import make_distribution
    from ablate.nn.optimizers import make_optimizer

    torch.set_num_threads(1)
    config, algo, shared = job.config, job.config.algo, job.shared
    assert isinstance(algo, ReinforceConfig)
    theta, *statistics = job.shared_tensors()
    gradient = torch.zeros_like(theta)
    network = job.architecture.torch_network(theta, gradient)
    acting = job.architecture.acting(shared.parameters_view(), job.spec.action)
    optimizer = make_optimizer(config.optimizer, theta, statistics)
    distribution = make_distribution(job.spec.action)
    env, rng = make_env(config.env), generator(config.seed, Role.action, 0)
    if job.resumed:
        restore(rng, job.resumed[0].state["rng"])

    def state() -> ProcessState:  # between two episodes, only the random stream must be saved
        return process_state({0: ({"rng": state_of(rng)}, {})})

    for _ in rounds(job, send, state):
        observations, actions, rewards = [env.reset(seed=draw_seed(rng))[0]], [], []
        terminated = truncated = False
        while not (terminated or truncated):
            beat()
            actions.append(acting.sample(observations[-1], rng))
            observation, reward, terminated, truncated, _ = env.step(acting.to_env(actions[-1]))
            observations.append(observation)
            rewards.append(float(reward))

        # G_t = r_{t+1} + γ G_{t+1}; G_T = V(s_T) at a time limit, and 0 if the episode has terminated.
        outputs, values = network.forward(torch.from_numpy(np.array(observations, np.float32)))
        following = 0.0 if terminated else float(values[-1])
        returns = np.zeros(len(rewards), np.float32)
        for t in reversed(range(len(rewards))):
            scaled = (rewards[t] + config.env.reward_shift) / config.env.reward_scale
            returns[t] = following = scaled + algo.gamma * following
        advantages = torch.from_numpy(returns) - values[:-1]
        policy_loss = -(distribution.log_prob(outputs, torch.tensor(np.array(actions))) * advantages.detach()).mean()
        value_loss = algo.value_loss_coef * advantages.square().mean()
        gradient.zero_()
        (policy_loss + value_loss).backward()

        counters = shared.count(len(rewards), episodes=1)
        lr = config.optimizer.learning_rate(counters)
        optimizer.step(gradient, counters.updates, lr)
        now = shared.wall_time_s()
        send(EpisodeRecord(0, counters.steps, now, sum(rewards), len(rewards), terminated, truncated))
        if counters.updates % config.log_interval == 0:
            losses = (policy_loss.item(), value_loss.item(), gradient.norm().item())
            send(UpdateRecord(counters.updates, counters.steps, now, *losses, lr))
