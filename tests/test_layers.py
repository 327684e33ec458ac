"""The house's import rules (CONTRIBUTING.md): each module imports only from floors below its own."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

PACKAGE = ROOT / "src/ablate"
# From the ground up. A room may import from rooms before it and from itself.
GROUND = ("paths", "types", "seeding", "schedules")
ORDER = (
    *GROUND, "config",
    "rl", "parallel", "records", "nn", "envs", "compiled", "replay",
    "play", "algos",
    "analysis",  # beside the stairs
    "runs", "sweeps", "cli",
)  # fmt: skip


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}


class WithoutTypeChecking(ast.NodeTransformer):
    """Drops `if TYPE_CHECKING:` blocks, which never run."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else node


def imports_of(path: Path, for_types: bool = True) -> set[str]:
    """Modules of the package that a file imports, anywhere in it, without the leading `ablate.`.

    for_types: include what only type checkers import."""
    found = set()
    tree: ast.AST = ast.parse(path.read_text())
    for node in ast.walk(tree if for_types else WithoutTypeChecking().visit(tree)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.removeprefix("ablate.") for name in names if name.startswith("ablate.")}
    return {name for name in found if name in MODULES}


def outside_imports_of(path: Path) -> set[str]:
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import | ast.ImportFrom)]
    return {
        name.split(".")[0]
        for node in nodes
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_only_from_below(module: str) -> None:
    room = module.split(".")[0]
    assert room in ORDER, f"{room} has no floor: add it to the plan in CONTRIBUTING.md and here"
    for imported in imports_of(MODULES[module]):
        other = imported.split(".")[0]
        assert ORDER.index(other) <= ORDER.index(room), f"{module} imports {imported}, which lies above it"


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = {module: imports_of(path, for_types=False) for module, path in MODULES.items()}
    while left:
        free = [module for module, imports in left.items() if not imports & left.keys()]
        assert free, f"a circle among {sorted(left)}"
        for module in free:
            del left[module]


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("analysis")))
def test_analysis_reads_only_files(module: str) -> None:
    files = {"records.schema", "records.files"}
    rooms = {i if i in files else i.split(".")[0] for i in imports_of(MODULES[module])}
    assert rooms <= {*GROUND, "config", "analysis"} | files
    assert "torch" not in outside_imports_of(MODULES[module])


def test_only_parallel_imports_multiprocessing() -> None:
    users = {m for m, path in MODULES.items() if "multiprocessing" in outside_imports_of(path)}
    assert users == {"parallel.shared", "parallel.supervisor"}


def test_src_is_not_a_package() -> None:
    assert not (ROOT / "src/__init__.py").exists()


def test_the_parent_process_does_not_import_torch() -> None:
    code = "import ablate.cli.hydra_app, ablate.analysis.figures, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
