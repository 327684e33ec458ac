"""hydra/launcher=ray: each cell, or a few short ones together, is a Ray task. Ray chooses a node with enough cores,
GPUs and memory for it.

Ray's own retries are off. With them, a task that crashes its worker process would be retried for ever, without a
message."""

# No `from __future__ import annotations`: with it, dataclasses fail in the way that Hydra imports plugins.
import contextlib
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import MISSING, DictConfig

from ablate.parallel.signals import SIGNALS

if TYPE_CHECKING:
    from ablate.cli.cluster import Job, JobCell, Launch

POLL_S = 1.0
CONNECT_S = 10.0
GRACE_S = 70.0  # time for cancelled cells to write their checkpoints
RESOURCES = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}  # a task's option: a node's name for it
# By default Ray reserves 30% of the memory for objects, but cells send almost none.
OWN_RAY = {"address": "local", "object_store_memory": 100_000_000, "include_dashboard": False}


@dataclass
class RayLauncherConfig:
    """The types of conf/hydra/launcher/ray.yaml, which explains each key."""

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
        self._context, self._config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs. Returns when every job has ended; a job that Ray lost has failed, with the reason.

        On Ctrl-C it cancels all queued and running jobs and waits for their end. Raises ConfigError."""
        from ablate.cli.cluster import Launch
        from ablate.sweeps.detached import let_go

        launch = Launch.of(self._context, self._config)
        jobs = launch.jobs(job_overrides, initial_job_idx)
        with _connected(self._address) as ray:
            options = self._options(ray, jobs)
            let_go(launch.folder)
            returns = self._until_all_ended(ray, launch, list(zip(jobs, options, strict=True)))
            return [returns[number] for number in sorted(returns)]

    def _options(self, ray: Any, jobs: "Sequence[Job]") -> list[dict[str, float]]:
        """The resources that each task requests. A cell that needs more than any node has gets a whole node.

        Raises ConfigError if the user requests more than any node has: Ray would wait for ever."""
        from ablate.config.schema import ConfigError

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        largest = {option: max(node.get(name, 0) for node in nodes) for option, name in RESOURCES.items()}
        given = {option: value for option, value in self._given.items() if value is not None}
        options = []
        for needs in (job.needs for job in jobs):
            own = {"num_cpus": needs.cpus, "memory": needs.memory_mb * 2**20}
            request = {option: min(value, largest[option] or value) for option, value in own.items()}
            request = {**request, "num_gpus": needs.gpus, **given}
            for option, value in request.items():
                if not 0 <= value <= largest[option]:
                    limit = f"no node has more than {largest[option]:g}"
                    raise ConfigError(f"hydra/launcher=ray: a cell requests {option}={value:g}, but {limit}")
            options.append(request)
        return options

    def _until_all_ended(
        self, ray: Any, launch: "Launch", jobs: "list[tuple[Job, dict[str, float]]]"
    ) -> dict[int, JobReturn]:
        """Run the jobs, each with the resources that its task requests. Returns the results by the cells' numbers."""
        # Ray raises these for a task whose node or worker process is gone.
        gone = (ray.exceptions.NodeDiedError, ray.exceptions.WorkerCrashedError, ray.exceptions.LocalRayletDiedError,
                ray.exceptions.ObjectLostError)  # fmt: skip
        run, common = ray.remote(max_retries=0)(_run), ray.put(launch)
        queued = deque((job, options, 0) for job, options in jobs)
        running: dict[Any, tuple[Job, dict[str, float], int]] = {}  # with the number of failures of its nodes
        returns: dict[int, JobReturn] = {}
        try:
            while queued or running:
                while queued and len(running) < (self._config.sweep.parallel or len(jobs)):
                    job, options, failures = queued.popleft()
                    running[run.options(**options).remote(common, job.cells)] = job, options, failures
                ended, _ = ray.wait(list(running), timeout=POLL_S)
                for reference in ended:
                    job, options, failures = running.pop(reference)
                    try:
                        results, rest = launch.after(job, ray.get(reference))
                    except ray.exceptions.RayError as error:
                        if isinstance(error, gone) and failures < self._max_node_failures:
                            queued.append((job, options, failures + 1))
                            continue
                        results, rest = launch.after_loss(job, _in_a_line(error))
                    returns |= results
                    queued.extend((job, options, 0) for job in rest)
        except KeyboardInterrupt:
            for reference in running:
                ray.cancel(reference)  # raises KeyboardInterrupt in the task, which stops its cell
            ray.wait(list(running), num_returns=len(running), timeout=GRACE_S)
            raise
        return returns


def _run(launch: "Launch", cells: "list[JobCell]") -> list[JobReturn]:
    """A Ray task: run one job on the node that Ray chose."""
    import ray

    return list(launch.run(cells, ray.get_runtime_context().get_task_id()))


def _in_a_line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error  # a task's exception is wrapped in its traceback
    return f"Ray: {type(cause).__name__}: {next(iter(str(cause).splitlines()), '')}"


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Connect to Ray while the context lasts. address: None starts Ray on this machine. Raises ConfigError."""
    from ablate.config.schema import ConfigError
    from ablate.paths import install, python_path

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _signal_handlers_kept():
        try:
            import ray
        except ImportError as error:
            raise ConfigError(f"hydra/launcher=ray: needs Ray; run {install('ray')}") from error
        environment = {"env_vars": {"PYTHONPATH": python_path()}}
        where = {"address": address} if address else OWN_RAY
        try:
            if address and address.count(":") == 1:  # Ray itself would try for minutes
                host, port = address.split(":")
                socket.create_connection((host, int(port)), CONNECT_S).close()
            ray.init(**where, runtime_env=environment, log_to_driver=False, logging_level="error")
        except Exception as error:  # Ray raises bare ones, for example if it takes too long to start
            raise ConfigError(f"hydra.launcher.address={address}: {_in_a_line(error)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Restore the sweep's signal handlers: importing or starting Ray makes SIGTERM end the program."""
    kept = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in kept.items():
                signal.signal(number, handler)
