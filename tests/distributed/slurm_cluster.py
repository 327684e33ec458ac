"""A Slurm cluster on loopback, as root and without systemd: munged, MariaDB, slurmdbd, slurmctld and two slurmd.

The daemons come from Debian (munge, mariadb-server, slurmdbd, slurmctld, slurmd, slurm-client). Each listens on a free
port of 127.0.0.1 and keeps all its files in one folder. `python tests/distributed/slurm_cluster.py` starts a cluster
that runs until Ctrl-C, and prints the SLURM_CONF that squeue, sacct and sbatch need."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = (
    "munged",
    "mungekey",
    "mariadbd",
    "mariadb-install-db",
    "mariadb",
    "slurmdbd",
    "slurmctld",
    "slurmd",
    "sacct",
)
NODES = ("n1", "n2")
START_S = 60.0

SLURM_CONF = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=10
SlurmctldTimeout=30
KillWait=5
InactiveLimit=0
UnkillableStepTimeout=30
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePass={folder}/munge.sock
AccountingStoragePort={database_daemon_port}
{nodes}
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE OverTimeLimit=0 State=UP
"""
# CPUs is configured, not what the machine has: two cells with two cores each fit on a node.
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=4000 State=UNKNOWN"
SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={database_daemon_port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
"""


def missing_programs() -> list[str]:
    """Programs of Debian's packages that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


class SlurmCluster:
    """The daemons of a cluster. `environment`: the variables that its clients need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = dict(zip(("controller_port", "database_port", "database_daemon_port", *NODES),
                               _free_ports(3 + len(NODES)), strict=True))  # fmt: skip

    def start(self) -> None:
        self._write_configuration()
        munge = ["--foreground", f"--socket={self.folder}/munge.sock", f"--key-file={self.folder}/munge.key",
                 f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log",
                 f"--seed-file={self.folder}/munged.seed", "--num-threads=2"]  # fmt: skip
        self._daemon("munged", "munged", *munge)
        self._start_database()
        self._daemon("slurmdbd", "slurmdbd", "-D")
        self._wait_until(lambda: self._succeeds("sacctmgr", "-n", "show", "cluster"), "slurmdbd answers")
        self._succeeds("sacctmgr", "-i", "add", "cluster", "loopback")
        self._daemon("slurmctld", "slurmctld", "-D", "-i")
        for node in NODES:
            self.start_node(node)
        self._wait_until(lambda: self.states() == ["idle"] * len(NODES), "nodes are idle")

    def start_node(self, node: str) -> None:
        (self.folder / node).mkdir(exist_ok=True)
        self._daemon(node, "slurmd", "-D", "-N", node, folder=self.folder / node)

    def kill_node(self, node: str) -> None:
        """Like a power cut: the node's daemon and all processes of its jobs are killed at once."""
        self._daemons[node].kill()
        self._daemons.pop(node).wait()
        for find in (self._stewards, self._jobs_processes):  # the stewards first: they would report the end of the jobs
            while left := find(node):
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.05)

    def _stewards(self, node: str) -> list[int]:
        """The slurmstepd of the node's jobs. They hide their environment, but run in the folder of their slurmd."""
        return [pid for pid in _processes() if _link(pid, "cwd") == str(self.folder / node)]

    def _jobs_processes(self, node: str) -> list[int]:
        ours = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()}
        return [pid for pid in _processes() if ours <= set(_environment(pid))]

    def stop(self) -> None:
        for node in NODES:
            if node in self._daemons:
                self.kill_node(node)
        for name in reversed(list(self._daemons)):
            self._daemons[name].terminate()
            try:
                self._daemons[name].wait(20)
            except subprocess.TimeoutExpired:
                self._daemons[name].kill()
                self._daemons[name].wait()
        self._daemons.clear()

    def states(self) -> list[str]:
        """The nodes' states, as sinfo names them."""
        return self.output("sinfo", "-h", "-N", "-o", "%T").split()

    def jobs(self, states: str = "PENDING,RUNNING,COMPLETING") -> list[str]:
        """Ids of the jobs in these states."""
        return self.output("squeue", "-h", "-r", "-o", "%i", f"--states={states}").split()

    def output(self, *command: str) -> str:
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, check=True, timeout=START_S
        ).stdout

    def _write_configuration(self) -> None:
        host = socket.gethostname().split(".")[0]
        values = {"folder": self.folder, "host": host, "password": secrets.token_hex(8), **self._ports}
        nodes = "\n".join(NODE.format(name=name, host=host, port=self._ports[name]) for name in NODES)
        (self.folder / "state").mkdir()
        (self.folder / "slurm.conf").write_text(SLURM_CONF.format(nodes=nodes, names=",".join(NODES), **values))
        database = self.folder / "slurmdbd.conf"
        database.write_text(SLURMDBD_CONF.format(**values))
        database.chmod(0o600)
        self._password = values["password"]
        subprocess.run(["mungekey", "--create", f"--keyfile={self.folder}/munge.key"], check=True, env=self._env())

    def _start_database(self) -> None:
        data, sock = self.folder / "mariadb", self.folder / "mariadb.sock"
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db"]
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self._env())
        self._daemon("mariadb", "mariadbd", "--no-defaults", f"--datadir={data}", "--user=root", f"--socket={sock}",
                     "--bind-address=127.0.0.1", f"--port={self._ports['database_port']}", "--skip-log-bin",
                     f"--pid-file={self.folder}/mariadb.pid", "--innodb-buffer-pool-size=16M",
                     "--innodb-flush-log-at-trx-commit=0")  # fmt: skip
        client = ("mariadb", "--no-defaults", f"--socket={sock}", "--user=root", "-e")
        self._wait_until(lambda: self._succeeds(*client, "select 1"), "MariaDB answers")
        grant = f"grant all on slurm_acct_db.* to slurm@'%' identified by '{self._password}'"
        subprocess.run([*client, grant], check=True, env=self._env())

    def _daemon(self, name: str, program: str, *arguments: str, folder: Path | None = None) -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [program, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env(),
                start_new_session=True, cwd=folder,
            )  # fmt: skip

    def _env(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def _succeeds(self, *command: str) -> bool:
        try:
            return subprocess.run(command, capture_output=True, env=self._env(), timeout=15).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _wait_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_S
        while not condition():
            ended = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                logs = "\n".join(
                    f"{name}: {(self.folder / f'{name}.out').read_text()[-1500:]}" for name in self._daemons
                )
                raise RuntimeError(f"not so: {what}; ended: {ended}\n{logs}")
            time.sleep(0.2)


def _processes() -> list[int]:
    """All process ids. Killed ones may stay as zombies, which have neither an environment nor a folder."""
    return list(map(int, filter(str.isdigit, os.listdir("/proc"))))


def _link(pid: int, name: str) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/{name}")
    return ""


def _environment(pid: int) -> list[bytes]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return []


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]


@contextlib.contextmanager
def slurm_cluster() -> Iterator[SlurmCluster]:
    """A cluster in a temporary folder. Nothing of it is left afterwards."""
    folder = Path(
        tempfile.mkdtemp(prefix="slurm-", dir="/tmp")
    )  # a short path: that of a socket may have 107 characters
    folder.chmod(0o755)  # munged requires that every user can reach its socket
    cluster = SlurmCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    with slurm_cluster() as held:
        print(f"export SLURM_CONF={held.environment['SLURM_CONF']}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    sys.exit(0)
