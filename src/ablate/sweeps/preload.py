"""The process from which the cells of a sweep on this machine are forked, `python -m ablate.sweeps.preload`.

Before it forks a cell, it imports what cells like it need, and loads their kernels. It imports no code of the user's:
cells that need it import it themselves."""

from __future__ import annotations

from ablate.algos.algorithm import algorithm_of
from ablate.config.serial import from_dict
from ablate.parallel.fork_server import serve
from ablate.records.manifest import provenance
from ablate.sweeps.train_cell import CellRequest, config_of, work

_prepared: set[str] = set()  # arms


def prepare(request: bytes) -> None:
    """Import and load what the cell needs, unless that was done for a cell of the same arm."""
    cell = CellRequest.read(request)
    if (arm := cell.arm()) not in _prepared:
        _prepared.add(arm)
        provenance([])  # reads the versions of packages, and asks git
        config = from_dict({**cell.config, "plugins": []}) if cell.modules else config_of(arm)
        algorithm_of(config).preload(config, cell.known_spec())


if __name__ == "__main__":
    serve(prepare, work)
