"""hydra/launcher=slurm: each cell a job of Slurm's, sent with submitit; none is forgotten, whatever becomes of others.

hydra-submitit-launcher's own launch() raises at the first lost job while the others run on; after Ctrl-C all run on. It
learns of lost jobs from Slurm's accounting alone, and without it waits for ever: the controller tells the same."""

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
    from ablate.cli.cluster import Jobs, Needs

try:  # the schema of conf/hydra/launcher/slurm.yaml; Hydra imports every plugin, so nothing heavy here
    import hydra_plugins.hydra_submitit_launcher.config  # noqa: F401
except ImportError:  # an empty one, so that the option composes and launch() can say what is missing
    ConfigStore.instance().store(group="hydra/launcher", name="submitit_slurm", node={})

POLL_S = 1.0  # between two looks for results
QUEUE_S = 5.0  # between two questions to Slurm's controller
SETTLE_S = 15.0  # for a result to appear on a slow file system after Slurm has called its job ended
CANCEL_S = 300.0  # for cancelled jobs to write their checkpoints and go; Slurm kills them after KillWait
LARGEST_ARRAY = 1000  # Slurm's default MaxArraySize is 1001
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
         "REVOKED", "TIMEOUT"}  # fmt: skip
MINE = [f"--user={os.getuid()}"]


class SlurmLauncher(Launcher):
    def __init__(self, submitit_folder: str = "", max_num_timeout: int = 0, **parameters: Any) -> None:
        """parameters: of sbatch, as in conf/hydra/launcher/slurm.yaml."""
        self._folder, self._max_num_timeout, self._parameters = submitit_folder, max_num_timeout, parameters

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._task_function, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Returns when every job has ended; those that Slurm lost or killed as failed, with the reason.

        Interrupted, it cancels what is queued or runs and waits until it is gone. Raises ConfigError."""
        from ablate.cli.cluster import Jobs
        from ablate.config.schema import ConfigError

        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise ConfigError("hydra/launcher=slurm: needs submitit; pip install -e '.[slurm]'") from error
        jobs = Jobs.of(self._context, self._task_function, self._config)
        # The sweep's, and the same each time: jobs that a killed sweep left behind are found by it.
        digest = hashlib.sha256(str(jobs.folder).encode()).hexdigest()[:8]
        name = f"{re.sub(r'[^A-Za-z0-9_.-]', '-', jobs.folder.name)}-{digest}"
        if shutil.which("sbatch") is None or _states(name) is None:
            raise ConfigError("hydra/launcher=slurm: no Slurm answers here (squeue fails); is this a login node?")
        _cancel(name)
        try:
            submitted = self._submit(jobs, name, job_overrides, initial_job_idx)
            return self._until_all_ended(jobs, submitted, name, job_overrides)
        except BaseException:
            _cancel(name)
            raise

    def _submit(self, jobs: Jobs, name: str, job_overrides: Sequence[Sequence[str]], first: int) -> dict[int, Any]:
        """Submitit's jobs by their place in job_overrides; an array for each kind of needs."""
        import cloudpickle
        from submitit.core.utils import FailedJobError

        from ablate.config.schema import ConfigError

        cell_job = _CellJob(cloudpickle.dumps(jobs))
        arrays = defaultdict(list)
        for index, needs in enumerate(jobs.needs(job_overrides)):
            arrays[needs].append(index)
        submitted: dict[int, Any] = {}
        for needs, indices in arrays.items():
            executor = self._executor(name, needs)
            for start in range(0, len(indices), LARGEST_ARRAY):
                some = indices[start : start + LARGEST_ARRAY]
                try:
                    sent = executor.map_array(
                        cell_job, [list(job_overrides[i]) for i in some], [first + i for i in some]
                    )
                except FailedJobError as error:
                    told = str(error).strip().splitlines() or ["no reason given"]
                    raise ConfigError(f"hydra/launcher=slurm: {told[-1]}") from error
                submitted.update(zip(some, sent, strict=True))
        return submitted

    def _executor(self, name: str, needs: Needs) -> Any:
        import submitit
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

        from ablate.sweeps.cell import python_path

        executor = submitit.AutoExecutor(self._folder, "slurm", slurm_max_num_timeout=self._max_num_timeout)
        given = {key: value for key, value in self._parameters.items() if value is not None}
        asked: dict[str, Any] = {"cpus_per_task": needs.cpus}
        if needs.gpus and not {"gpus_per_task", "gres"} & given.keys():
            asked["gpus_per_node"] = needs.gpus
        if not {"mem_per_cpu", "mem_per_gpu"} & given.keys():
            asked["mem_gb"] = needs.memory_mb / 1024
        if self._config.sweep.parallel:
            given["array_parallelism"] = self._config.sweep.parallel
        setup = [f"export PYTHONPATH={shlex.quote(python_path())}", *given.pop("setup", [])]
        parameters = {**asked, **given, "name": name, "setup": setup}
        shared = {field.name for field in fields(BaseQueueConf)}  # what submitit names the same for all clusters
        executor.update_parameters(**{k if k in shared else f"slurm_{k}": v for k, v in parameters.items()})
        return executor

    def _until_all_ended(
        self, jobs: Jobs, waiting: dict[int, Any], name: str, job_overrides: Sequence[Sequence[str]]
    ) -> list[JobReturn]:
        returns: dict[int, JobReturn] = {}
        ended_since: dict[int, float] = {}  # jobs that Slurm calls ended, and whose result is not seen yet
        asked_at, cancelled = float("-inf"), False
        while waiting:
            if jobs.stopped and not cancelled:
                cancelled = _scancel(name, "--state=PENDING")
            states = None
            if time.monotonic() - asked_at > QUEUE_S:
                states, asked_at = _states(name), time.monotonic()
            for index, job in list(waiting.items()):
                if job.paths.result_pickle.exists():
                    returns[index] = self._result(job, job_overrides[index])
                elif states is not None:
                    # Slurm forgets jobs some minutes (MinJobAge) after their end
                    state, node = states.get(job.job_id, ("ended", "an unknown node"))
                    if state != "ended" and state not in ENDED:
                        ended_since.pop(index, None)  # it waits or runs (again)
                    elif time.monotonic() - ended_since.setdefault(index, time.monotonic()) > SETTLE_S:
                        returns[index] = _lost(job_overrides[index], job, f"{state} on {node}{_why(job)}")
                if index in returns:
                    del waiting[index]
            if waiting:
                time.sleep(POLL_S)
        return [returns[index] for index in range(len(job_overrides))]

    def _result(self, job: Any, overrides: Sequence[str]) -> JobReturn:
        from submitit.core.utils import UncompletedJobError

        try:
            returned = job.result()
        except UncompletedJobError as error:  # raised before Hydra had the job, or as it was told to leave
            trace = [line for line in str(error).splitlines() if line and not line.startswith("---")]
            told = next((line for line in reversed(trace) if "Error: " in line), trace[0])
            return _lost(overrides, job, told)
        if isinstance(returned._return_value, UncompletedJobError):
            limit = f"hydra.launcher.timeout_min={self._parameters['timeout_min']}"
            return _lost(overrides, job, f"told to leave, at its time limit ({limit}) or for others' jobs")
        return returned


class _CellJob(NamedTuple):
    """What submitit pickles for each job, and calls on a node."""

    jobs: bytes  # pickled once: for each of a thousand it would take a minute

    def __call__(self, overrides: list[str], number: int) -> JobReturn:
        import submitit

        jobs: Jobs = pickle.loads(self.jobs)
        return jobs.run(overrides, number, submitit.JobEnvironment().job_id)

    def checkpoint(self, *arguments: Any) -> Any:
        """What is queued again at the time limit, as often as max_num_timeout says; the cell then goes on."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)


def _lost(overrides: Sequence[str], job: Any, what: str) -> JobReturn:
    from ablate.cli.cluster import lost

    return lost(overrides, f"Slurm's job {job.job_id}: {what}; {job.paths.stderr}")


def _why(job: Any) -> str:
    """What Slurm wrote into the job's log as it ended it: that it took too much memory, say."""
    told = re.search(r"^slurmstepd\S*: error: (.+)$", job.stderr() or "", re.MULTILINE)
    return f", {told[1]}" if told else ""


def _states(name: str) -> dict[str, tuple[str, str]] | None:
    """(state, node) of the jobs of this name that Slurm remembers, by id; None while it does not answer."""
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%N", f"--name={name}", *MINE]
    asked = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    if asked.returncode:
        return None
    rows = (line.split("|") for line in asked.stdout.splitlines())
    return {job_id: (state, node or "no node") for job_id, state, node in rows}


def _scancel(name: str, *which: str) -> bool:
    command = ["scancel", f"--name={name}", *MINE, *which]
    return subprocess.run(command, capture_output=True, start_new_session=True).returncode == 0


def _cancel(name: str) -> None:
    """End all jobs of this name, and wait until they are gone: cells that run write their checkpoints."""
    deadline = time.monotonic() + CANCEL_S
    while time.monotonic() < deadline:
        states = _states(name)
        left = None if states is None else {state for state, _ in states.values()} - ENDED
        if left == set():
            return
        if left is not None and left != {"COMPLETING"}:  # those have their signal; a second would cut them short
            _scancel(name)
        time.sleep(POLL_S)
