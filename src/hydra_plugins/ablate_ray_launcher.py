"""hydra/launcher=ray: each cell a task of Ray's, which puts it where there are cores, GPUs and memory for it.

Ray's own retries are off: a task that takes its worker down would be retried for ever, and nobody told."""

# no `from __future__ import annotations`: Hydra imports plugins in a way that dataclasses then do not survive
import contextlib
import os
import signal
import socket
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import MISSING, DictConfig

if TYPE_CHECKING:
    from ablate.cli.cluster import Jobs, Needs

POLL_S = 1.0
CONNECT_S = 10.0
GRACE_S = 70.0  # for cancelled cells to write their checkpoints
RESOURCES = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}  # a task's options, and a node's names for them
# A Ray that is started here would set 30% of the memory aside for objects: cells send next to nothing.
OWN_RAY = {"address": "local", "object_store_memory": 100_000_000, "include_dashboard": False}


@dataclass
class RayLauncherConfig:
    """Types of conf/hydra/launcher/ray.yaml, where each key is explained."""

    _target_: str = "hydra_plugins.ablate_ray_launcher.RayLauncher"
    address: str | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory_gb: float | None = None
    max_node_failures: int = MISSING


ConfigStore.instance().store(group="hydra/launcher", name="ray_schema", node=RayLauncherConfig, provider="ablate")


class RayLauncher(Launcher):
    def __init__(self, address: str | None, max_node_failures: int, memory_gb: float | None, **given: Any) -> None:
        """given: num_cpus, num_gpus."""
        self._address, self._max_node_failures = address, max_node_failures
        self._given = {**given, "memory": memory_gb and int(memory_gb * 2**30)}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._task_function, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Returns when every job has ended; those that Ray lost as failed, with the reason.

        Interrupted, it cancels what is queued or runs and waits until it is gone. Raises ConfigError."""
        from ablate.cli.cluster import Jobs

        jobs = Jobs.of(self._context, self._task_function, self._config)
        needs = jobs.needs(job_overrides)
        with _connected(self._address) as ray:
            options = self._options(ray, needs)
            return self._until_all_ended(ray, jobs, job_overrides, initial_job_idx, options)

    def _options(self, ray: Any, needs: "Sequence[Needs]") -> list[dict[str, float]]:
        """What each task asks for. As with hydra/launcher=local, a cell that no node holds gets a whole one.

        Raises ConfigError for what no node has: Ray would wait for such a node for ever."""
        from ablate.config.schema import ConfigError

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        largest = {option: max(node.get(name, 0) for node in nodes) for option, name in RESOURCES.items()}
        given = {option: value for option, value in self._given.items() if value is not None}
        options = []
        for need in needs:
            own = {"num_cpus": need.cpus, "memory": need.memory_mb * 2**20}
            asked = {option: min(value, largest[option] or value) for option, value in own.items()}
            asked = {**asked, "num_gpus": need.gpus, **given}
            for option, value in asked.items():
                if not 0 <= value <= largest[option]:
                    most = f"no node has more than {largest[option]:g}"
                    raise ConfigError(f"hydra/launcher=ray: a cell asks for {option}={value:g}, {most}")
            options.append(asked)
        return options

    def _until_all_ended(
        self,
        ray: Any,
        jobs: "Jobs",
        job_overrides: Sequence[Sequence[str]],
        first: int,
        options: list[dict[str, float]],
    ) -> list[JobReturn]:
        from ablate.cli.cluster import lost

        # What Ray raises for a task whose node or worker is gone
        gone = (ray.exceptions.NodeDiedError, ray.exceptions.WorkerCrashedError, ray.exceptions.LocalRayletDiedError,
                ray.exceptions.ObjectLostError)  # fmt: skip
        run, common = ray.remote(max_retries=0)(_run), ray.put(jobs)
        queued = deque(range(len(job_overrides)))
        running: dict[Any, int] = {}
        returns: dict[int, JobReturn] = {}
        failures: Counter[int] = Counter()
        try:
            while queued or running:
                while queued and len(running) < (self._config.sweep.parallel or len(job_overrides)):
                    index = queued.popleft()
                    task = run.options(**options[index])
                    running[task.remote(common, list(job_overrides[index]), first + index)] = index
                ended, _ = ray.wait(list(running), timeout=POLL_S)
                for reference in ended:
                    index = running.pop(reference)
                    try:
                        returns[index] = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        failures[index] += 1
                        if isinstance(error, gone) and failures[index] <= self._max_node_failures:
                            queued.append(index)
                        else:
                            returns[index] = lost(job_overrides[index], _in_a_line(error))
        except KeyboardInterrupt:
            for reference in running:
                ray.cancel(reference)  # a KeyboardInterrupt in whatever watches the cell
            ray.wait(list(running), num_returns=len(running), timeout=GRACE_S)
            raise
        return [returns[index] for index in range(len(job_overrides))]


def _run(jobs: "Jobs", overrides: list[str], number: int) -> JobReturn:
    """A task, on whatever node."""
    import ray

    from ablate.cli.cluster import lost
    from ablate.sweeps.cell import NOT_STARTED

    if jobs.stopped:  # a thousand queued cells need not be composed to be told
        return lost(overrides, NOT_STARTED.reason)
    return jobs.run(overrides, number, ray.get_runtime_context().get_task_id())


def _in_a_line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error  # a task's exception is wrapped in its traceback
    return f"Ray: {type(cause).__name__}: {next(iter(str(cause).splitlines()), '')}"


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray, for as long as the context lasts. address: None starts one here. Raises ConfigError."""
    from ablate.config.schema import ConfigError
    from ablate.sweeps.cell import python_path

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _signal_handlers_kept():
        try:
            import ray
        except ImportError as error:
            raise ConfigError("hydra/launcher=ray: needs Ray; pip install -e '.[ray]'") from error
        environment = {"env_vars": {"PYTHONPATH": python_path()}}
        where = {"address": address} if address else OWN_RAY
        try:
            if address and address.count(":") == 1:  # Ray would knock for minutes
                host, port = address.split(":")
                socket.create_connection((host, int(port)), CONNECT_S).close()
            ray.init(**where, runtime_env=environment, log_to_driver=False, logging_level="error")
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise ConfigError(f"hydra.launcher.address={address}: {_in_a_line(error)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Ray, imported or started, makes SIGTERM end the program: the sweep has its own idea of what it means."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in kept.items():
                signal.signal(number, handler)
