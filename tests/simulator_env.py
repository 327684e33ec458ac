"""An environment that is a program of its own, `env.id=simulator_env:Simulated-v0`. Each reset starts it again.

Arguments, for example `+env.kwargs.dies=0.01`:
  dies      probability that the simulator kills itself in a step; then the environment truncates the episode
  how       how the simulator is started: program; daemon (in a session of its own, never ended);
            forked (no new program, never ended); child (of multiprocessing)
  closes    false: close() does nothing, as in environments that forget their simulator
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from typing import Any, ClassVar

import gymnasium
import numpy as np
import simulator
from gymnasium import spaces
from simulator import listen, serve

LIVES = "SIMULATOR_LIVES"  # with this environment variable, no simulator dies
PIXELS = 32


class Simulated(gymnasium.Env[np.ndarray, Any]):
    """Keep the simulator's point near 0."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": None}

    def __init__(
        self, dies: float = 0.0, how: str = "program", closes: bool = True, render_mode: str | None = None
    ) -> None:
        self._dies = 0.0 if os.environ.get(LIVES) else dies
        self._how, self._closes, self.render_mode = how, closes, render_mode
        self._process: Any = None
        self._started = False
        self._position, self._time = 0.0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if self._process is not None or not self._started:  # what it cannot end, it keeps
            self._end()
            self._start()
        command = f"reset {self.np_random.integers(2**31)}"
        try:
            self._ask(command)
        except (OSError, ValueError):  # it has died since its last step
            self._end()
            self._start()
            self._ask(command)
        self._time = 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._time += 1
        try:
            self._ask(f"step {float(action[0])}")
        except (OSError, ValueError):  # it has died
            return self._observation(), -1.0, False, True, {}
        action *= 0.0  # an environment may do what it wants with what it gets
        return self._observation(), -abs(self._position), False, False, {}

    def render(self) -> np.ndarray:
        """RGBA, with a white column at the position."""
        frame = np.zeros((PIXELS, PIXELS, 4), np.uint8)
        frame[:, int(np.clip((self._position + 2) / 4, 0, 0.99) * PIXELS)] = 255
        return frame

    def close(self) -> None:
        if self._closes:
            self._end()

    def _observation(self) -> np.ndarray:
        return np.array([self._position, self._time / 20], np.float32)

    def _start(self) -> None:
        self._started = True
        if self._how in ("program", "daemon"):
            is_daemon = self._how == "daemon"
            command = [sys.executable, "-I", "-S", simulator.__file__, str(self._dies)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=is_daemon)
            assert process.stdout is not None
            port = int(process.stdout.readline())
            self._process = None if is_daemon else process
        else:
            listening = listen()
            port = listening.getsockname()[1]
            if self._how == "child":
                self._process = multiprocessing.get_context("fork").Process(target=serve, args=(listening, self._dies))
                self._process.start()
            elif os.fork() == 0:
                serve(listening, self._dies)
            listening.close()
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._lines = self._connection.makefile("rw")

    def _ask(self, what: str) -> None:
        print(what, file=self._lines, flush=True)
        self._position = float(self._lines.readline())

    def _end(self) -> None:
        """Waits for ever if the simulator ignores SIGTERM."""
        if self._process is not None:
            self._process.terminate()
            (self._process.wait if self._how == "program" else self._process.join)()
            self._process = None


gymnasium.register(id="Simulated-v0", entry_point=Simulated, max_episode_steps=20)
