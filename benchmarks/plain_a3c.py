"""The plain loop that the a3c benchmark compares with: A3C on Pendulum as public programs write it.

It uses eager torch.nn modules, a new torch.distributions.Normal for every action, lists that np.vstack joins, an Adam
with shared moments, and gradients copied from the local to the global network. It is plain, but not slow on purpose,
and it must learn, because a broken loop would be no baseline. The constants are those of the Pendulum report.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn

GAMMA = 0.9
BETA = 0.005  # weight of the entropy
T_MAX = 10  # steps between two updates
MAX_EP_STEP = 200
BOUND = 2.0  # torque
REWARD_SHIFT = REWARD_SCALE = 8.1
POLL_S = 0.05
GRACE_S = 2.0  # for a worker to end by itself

# Steps made by all workers when the episode ended, the time (only differences have a meaning), and the worker.
EndedEpisode = tuple[int, float, int]


class ActorCritic(nn.Module):
    """(N, 3) -> mu, sigma, V, each (N, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Linear(3, 200)
        self.mu = nn.Linear(200, 1)
        self.sigma = nn.Linear(200, 1)
        self.critic = nn.Linear(3, 100)
        self.value = nn.Linear(100, 1)
        for layer in (self.actor, self.mu, self.sigma, self.critic, self.value):
            nn.init.normal_(layer.weight, 0.0, 0.1)
            nn.init.constant_(layer.bias, 0.0)

    def forward(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = F.relu6(self.actor(s))
        mu = BOUND * torch.tanh(self.mu(hidden))
        sigma = F.softplus(self.sigma(hidden)) + 1e-4
        return mu, sigma, self.value(F.relu6(self.critic(s)))

    def choose_action(self, s: Tensor) -> np.ndarray:
        """s (1, 3) -> a sample (1,). Like the public programs, it evaluates the critic and records a graph in vain."""
        mu, sigma, _ = self(s)
        return torch.distributions.Normal(mu.view(1).detach(), sigma.view(1).detach()).sample().numpy()

    def loss(self, s: Tensor, a: Tensor, target: Tensor) -> Tensor:
        """mean_t (R - V)² - [log π(a|s) (R - V) + β H(π)] with s (T, 3), a and target (T, 1).

        The advantage R - V in the bracket is a constant."""
        mu, sigma, value = self(s)
        advantage = target - value
        normal = torch.distributions.Normal(mu, sigma)
        gain = normal.log_prob(a) * advantage.detach() + BETA * normal.entropy()
        return (advantage.square() - gain).mean()


class SharedAdam(torch.optim.Adam):
    """Adam whose moments and step counts are in shared memory (the counts as tensors: torch 2 refuses an int)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network.parameters(), lr=1e-4, betas=(0.96, 0.999), eps=1e-8)
        for parameter in network.parameters():
            self.state[parameter] = {
                "step": torch.zeros(()).share_memory_(),
                "exp_avg": torch.zeros_like(parameter.data).share_memory_(),
                "exp_avg_sq": torch.zeros_like(parameter.data).share_memory_(),
            }


class PlainWorker:
    """One worker: its environment, its local network and its lists."""

    def __init__(self, gnet: ActorCritic, optimizer: SharedAdam, seed: int) -> None:
        torch.manual_seed(seed)
        self.gnet, self.optimizer = gnet, optimizer
        self.lnet = ActorCritic()
        self.lnet.load_state_dict(gnet.state_dict())
        self.env = gymnasium.make("Pendulum-v1").unwrapped  # this loop has a 200-step limit of its own
        self.env.reset(seed=seed)

    def train(self) -> Iterator[tuple[int, float | None]]:
        """Train forever. After each update, yield its number of steps and the return if an episode ended with it."""
        while True:
            s, episodic_return = self.env.reset()[0], 0.0
            buffer_s: list[np.ndarray] = []
            buffer_a: list[np.ndarray] = []
            buffer_r: list[float] = []
            for t in range(1, MAX_EP_STEP + 1):
                a = self.act(s)
                s_next, r, _, _, _ = self.env.step(a.clip(-BOUND, BOUND))
                episodic_return += float(r)
                buffer_s.append(s)
                buffer_a.append(a)
                buffer_r.append((float(r) + REWARD_SHIFT) / REWARD_SCALE)
                done = t == MAX_EP_STEP
                if t % T_MAX == 0 or done:
                    self.update(done, s_next, buffer_s, buffer_a, buffer_r)
                    yield len(buffer_r), episodic_return if done else None
                    buffer_s, buffer_a, buffer_r = [], [], []
                s = s_next

    def act(self, s: np.ndarray) -> np.ndarray:
        return self.lnet.choose_action(_tensor(s[None, :]))

    def update(
        self, done: bool, s_next: np.ndarray, bs: list[np.ndarray], ba: list[np.ndarray], br: list[float]
    ) -> None:
        """Push this rollout's gradient to the global network, step it, pull its parameters."""
        value = 0.0 if done else self.lnet(_tensor(s_next[None, :]))[-1].item()
        targets = []
        for r in br[::-1]:
            value = r + GAMMA * value
            targets.append(value)
        targets.reverse()
        loss = self.lnet.loss(_tensor(np.vstack(bs)), _tensor(np.vstack(ba)), _tensor(np.array(targets)[:, None]))
        # Clear the gradients of the LOCAL network. The public programs call optimizer.zero_grad(), which is for the
        # global network and on torch 2 only sets its gradients to None: the local ones would grow with every push.
        self.lnet.zero_grad()
        loss.backward()
        for local, shared in zip(self.lnet.parameters(), self.gnet.parameters(), strict=True):
            shared.grad = local.grad
        self.optimizer.step()
        self.lnet.load_state_dict(self.gnet.state_dict())


def train(workers: int, seconds: float) -> list[EndedEpisode]:
    """Train in `workers` processes for `seconds`, counted from when each has ended an episode. No process is left.

    OMP_NUM_THREADS=1 must be in the environment: the workers inherit it before they import torch."""
    context = torch.multiprocessing.get_context("spawn")
    gnet = ActorCritic()
    gnet.share_memory()
    stop, ended = context.Event(), context.Queue()
    arguments = (gnet, SharedAdam(gnet), context.Value("q", 0), stop, ended)
    processes = [context.Process(target=_work, args=(index, *arguments), daemon=True) for index in range(workers)]
    episodes: list[EndedEpisode] = []
    try:
        # Ctrl-C reaches all processes of the terminal. A signal ignored here stays ignored in the spawned workers.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for process in processes:
                process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        all_started = None
        while all_started is None or time.monotonic() - all_started < seconds:
            with contextlib.suppress(queue.Empty):
                episodes.append(ended.get(timeout=POLL_S))
            if any(process.exitcode is not None for process in processes):
                raise RuntimeError("a worker of the plain loop died: its traceback is above")
            if all_started is None and len({worker for _, _, worker in episodes}) == workers:
                all_started = time.monotonic()
        return episodes
    finally:
        stop.set()
        _end(processes)


def _work(index: int, gnet: ActorCritic, optimizer: SharedAdam, steps: Any, stop: Any, ended: Any) -> None:
    """A worker process: train until `stop` is set or the parent is gone."""
    torch.set_num_threads(1)
    pairs = zip(gnet.parameters(), optimizer.param_groups[0]["params"], strict=True)
    assert all(a is b and a.is_shared() for a, b in pairs), "the optimizer does not step the shared network"
    ended.cancel_join_thread()  # nobody reads the last ones after a stop
    parent = multiprocessing.parent_process()
    for n, episodic_return in PlainWorker(gnet, optimizer, index).train():
        with steps.get_lock():
            steps.value += n
            total = steps.value
        if episodic_return is not None:
            ended.put((total, time.monotonic(), index))
            if stop.is_set() or parent is None or not parent.is_alive():
                return


def _end(processes: Sequence[BaseProcess]) -> None:
    deadline = time.monotonic() + GRACE_S
    for process in (process for process in processes if process.pid is not None):
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array if array.dtype == np.float32 else array.astype(np.float32))
