"""hydra/launcher=slurm: each cell, or a few short ones together, is a Slurm job, submitted with submitit. A lost job
does not affect the others.

We do not use launch() of hydra-submitit-launcher. It raises at the first lost job while the other jobs still run, and
after Ctrl-C all jobs still run. It finds lost jobs only through Slurm's accounting, and without accounting it waits for
ever. We query Slurm's controller instead."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import shlex
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from ablate.cli.cluster import Job, JobCell, Launch, Needs

try:  # the schema of conf/hydra/launcher/slurm.yaml
    import hydra_plugins.hydra_submitit_launcher.config  # noqa: F401
except ImportError:  # an empty schema, so that the option composes and launch() can report what is missing
    ConfigStore.instance().store(group="hydra/launcher", name="submitit_slurm", node={})

POLL_S = 1.0  # between two checks for results
QUEUE_S = 5.0  # between two queries to Slurm's controller
SETTLE_S = 15.0  # time for a result to appear on a slow file system after Slurm reports the job's end
CANCEL_S = 300.0  # time for cancelled jobs to write their checkpoints and end; Slurm kills them after KillWait
LARGEST_ARRAY = 1000  # jobs in one array; Slurm's default MaxArraySize is 1001
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
         "REVOKED", "TIMEOUT"}  # fmt: skip
MINE = [f"--user={os.getuid()}"]


class SlurmLauncher(Launcher):
    def __init__(self, submitit_folder: str = "", max_num_timeout: int = 0, **parameters: Any) -> None:
        """parameters: options of sbatch, as in conf/hydra/launcher/slurm.yaml."""
        self._folder, self._max_num_timeout, self._parameters = submitit_folder, max_num_timeout, parameters

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs. Returns when every job has ended; a job that Slurm lost or killed has failed, with the reason.

        On Ctrl-C it cancels all queued and running jobs and waits for their end. Raises ConfigError."""
        from ablate.cli.cluster import Launch
        from ablate.config.schema import ConfigError
        from ablate.paths import install
        from ablate.sweeps.detached import let_go

        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"hydra/launcher=slurm: needs submitit; run {install('slurm')}") from error
        launch = Launch.of(self._context, self._config)
        # The same name each time, so that jobs which a killed sweep left behind are found and cancelled.
        digest = hashlib.sha256(str(launch.folder).encode()).hexdigest()[:8]
        name = f"{re.sub(r'[^A-Za-z0-9_.-]', '-', launch.folder.name)}-{digest}"
        if shutil.which("sbatch") is None or _states(name) is None:
            raise ConfigError("hydra/launcher=slurm: Slurm does not answer (squeue fails); is this a login node?")
        _cancel(name)
        try:
            submitted = self._submit(launch, name, launch.jobs(job_overrides, initial_job_idx))
            let_go(launch.folder)
            returns = self._until_all_ended(launch, name, submitted)
            return [returns[number] for number in sorted(returns)]
        except BaseException:
            _cancel(name)
            raise

    def _submit(self, launch: Launch, name: str, jobs: Sequence[Job]) -> list[tuple[Any, Job]]:
        """Submit one job array per set of requested resources. Returns submitit's job for each job."""
        import cloudpickle
        from submitit.core.utils import FailedJobError

        from ablate.config.schema import ConfigError

        on_node = _OnNode(cloudpickle.dumps(launch))
        arrays = defaultdict(list)
        for job in jobs:
            arrays[job.needs].append(job)
        submitted: list[tuple[Any, Job]] = []
        for needs, alike in arrays.items():
            executor = self._executor(name, needs)
            for start in range(0, len(alike), LARGEST_ARRAY):
                part = alike[start : start + LARGEST_ARRAY]
                try:
                    array = executor.map_array(on_node, [job.cells for job in part])
                except FailedJobError as error:
                    lines = str(error).strip().splitlines() or ["no reason given"]
                    raise ConfigError(f"hydra/launcher=slurm: {lines[-1]}") from error
                submitted += zip(array, part, strict=True)
        return submitted

    def _executor(self, name: str, needs: Needs) -> Any:
        import submitit
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

        from ablate.paths import python_path

        executor = submitit.AutoExecutor(self._folder, "slurm", slurm_max_num_timeout=self._max_num_timeout)
        given = {key: value for key, value in self._parameters.items() if value is not None}
        request: dict[str, Any] = {"cpus_per_task": needs.cpus}
        if needs.gpus and not {"gpus_per_task", "gres"} & given.keys():
            request["gpus_per_node"] = needs.gpus
        if not {"mem_per_cpu", "mem_per_gpu"} & given.keys():
            request["mem_gb"] = needs.memory_mb / 1024
        if self._config.sweep.parallel:
            given["array_parallelism"] = self._config.sweep.parallel
        setup = [f"export PYTHONPATH={shlex.quote(python_path())}", *given.pop("setup", [])]
        parameters = {**request, **given, "name": name, "setup": setup}
        shared = {field.name for field in fields(BaseQueueConf)}  # submitit's names for any cluster, without a prefix
        executor.update_parameters(**{k if k in shared else f"slurm_{k}": v for k, v in parameters.items()})
        return executor

    def _until_all_ended(self, launch: Launch, name: str, waiting: list[tuple[Any, Job]]) -> dict[int, JobReturn]:
        """Wait for the end of all jobs. Returns the results by the numbers of the cells."""
        from ablate.cli.cluster import lost
        from ablate.config.schema import ConfigError

        returns: dict[int, JobReturn] = {}
        ended_since: dict[str, float] = {}  # jobs that ended according to Slurm, but whose result has not appeared yet
        queried_at, cancelled = float("-inf"), False
        while waiting:
            if launch.stopped and not cancelled:
                cancelled = _scancel(name, "--state=PENDING")
            states = None
            if time.monotonic() - queried_at > QUEUE_S:
                states, queried_at = _states(name), time.monotonic()
            for sent, job in list(waiting):
                after = None
                if sent.paths.result_pickle.exists():
                    after = self._result(launch, sent, job)
                elif states is not None:
                    # Slurm forgets a job some minutes (MinJobAge) after its end.
                    state, node = states.get(sent.job_id, ("ended", "an unknown node"))
                    if state != "ended" and state not in ENDED:
                        ended_since.pop(sent.job_id, None)  # it waits or runs, possibly again
                    elif time.monotonic() - ended_since.setdefault(sent.job_id, time.monotonic()) > SETTLE_S:
                        after = launch.after_loss(job, _with_log(sent, f"{state} on {node}{_why(sent)}"))
                if after is not None:
                    waiting.remove((sent, job))
                    results, rest = after
                    returns |= results
                    if rest:
                        _scancel(name, sent.job_id)  # it may be queued again, after a preemption
                        try:
                            waiting += self._submit(launch, name, rest)
                        except ConfigError as error:
                            returns |= {cell.number: lost(cell.overrides, str(error)) for cell in rest[0].cells}
            if waiting:
                time.sleep(POLL_S)
        return returns

    def _result(self, launch: Launch, sent: Any, job: Job) -> tuple[dict[int, JobReturn], list[Job]]:
        from submitit.core.utils import UncompletedJobError

        from ablate.cli.cluster import lost
        from ablate.cli.hydra_private import result_of

        try:
            returned: list[JobReturn] = sent.result()
        except UncompletedJobError as error:  # before the job's first cell, or when Slurm ended it
            trace = [line for line in str(error).splitlines() if line and not line.startswith("---")]
            message = next((line for line in reversed(trace) if "Error: " in line), trace[0])
            return launch.after_loss(job, _with_log(sent, message))
        if isinstance(result_of(returned[-1]), UncompletedJobError):
            limit = f"hydra.launcher.timeout_min={self._parameters['timeout_min']}"
            reason = _with_log(sent, f"ended by Slurm, at its time limit ({limit}) or for another user's job")
            returned[-1] = lost(job.cells[len(returned) - 1].overrides, reason)
        return launch.after(job, returned)


class _OnNode(NamedTuple):
    """The function that submitit pickles for each job and calls on a node."""

    launch: bytes  # pickled once: pickling it for each of a thousand jobs would take a minute

    def __call__(self, cells: list[JobCell]) -> list[JobReturn]:
        """The results of the cells, without those that are left to another job."""
        import submitit
        from submitit.core.utils import UncompletedJobError

        from ablate.cli.hydra_private import result_of

        launch: Launch = pickle.loads(self.launch)
        returned: list[JobReturn] = []
        for result in launch.run(cells, submitit.JobEnvironment().job_id):
            at_limit = isinstance(result_of(result), UncompletedJobError)
            if not (at_limit and returned):  # a cell that had not the whole time goes on in another job
                returned.append(result)
            if at_limit:
                break
        return returned

    def checkpoint(self, *arguments: Any) -> Any:
        """The job to queue again at the time limit, up to max_num_timeout times. Its cells then continue."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)


def _with_log(sent: Any, reason: str) -> str:
    return f"Slurm job {sent.job_id}: {reason}; see {sent.paths.stderr}"


def _why(job: Any) -> str:
    """Slurm's reason in the job's log, for example that the job used too much memory; empty without one."""
    match = re.search(r"^slurmstepd\S*: error: (.+)$", job.stderr() or "", re.MULTILINE)
    return f", {match[1]}" if match else ""


def _states(name: str) -> dict[str, tuple[str, str]] | None:
    """(state, node) of all jobs with this name, by job id; None if Slurm does not answer."""
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%N", f"--name={name}", *MINE]
    queue = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    if queue.returncode:
        return None
    rows = (line.split("|") for line in queue.stdout.splitlines())
    return {job_id: (state, node or "no node") for job_id, state, node in rows}


def _scancel(name: str, *which: str) -> bool:
    command = ["scancel", f"--name={name}", *MINE, *which]
    return subprocess.run(command, capture_output=True, start_new_session=True).returncode == 0


def _cancel(name: str) -> None:
    """Cancel all jobs with this name and wait for their end. Running cells write their checkpoints."""
    deadline = time.monotonic() + CANCEL_S
    while time.monotonic() < deadline:
        states = _states(name)
        left = None if states is None else {state for state, _ in states.values()} - ENDED
        if left == set():
            return
        if left is not None and left != {"COMPLETING"}:  # they already have the signal; a second one would kill them
            _scancel(name)
        time.sleep(POLL_S)
