"""The layers of the code (CONTRIBUTING.md): each module imports only from its own folder and from folders below it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

PACKAGE = ROOT / "src/ablate"
# From the ground up: a folder may import from itself and from those before it.
GROUND = ("paths", "types", "seeding", "schedules")
ORDER = (
    *GROUND, "config",
    "rl", "parallel", "records", "nn", "compiled", "envs", "replay",
    "play", "algos",
    "analysis",  # next to the stairs: `test_analysis_reads_only_files`
    "runs", "sweeps", "cli",
    "api",  # starts the programs of cli/ and reads files
)  # fmt: skip

# Code that asks which algorithm a run has: by its class, by its name in quotes, or by a comparison of its name.
WHICH_ALGORITHM = re.compile(
    r"""\b(A3CConfig|DQNConfig)\b|["'](a3c|dqn)["']|\balgo\.name\s*(==|!=|in\b)|isinstance\([^)]*\balgo\b"""
)
# Code that asks which kind of network or environment a run has.
WHICH_KIND = re.compile(
    r"isinstance\([^)]*\b(\w*Architecture|MlpConfig|ConvConfig|QConfig|AtariConfig|GymnasiumConfig)\b"
)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}


class WithoutTypeChecking(ast.NodeTransformer):
    """Removes `if TYPE_CHECKING:` blocks, which never run."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else node


def imports_of(path: Path, for_types: bool = True) -> set[str]:
    """Modules of the package that a file imports, at any place in it, without the leading `ablate.`.

    for_types: include imports for type checkers only."""
    imported = set()
    tree: ast.AST = ast.parse(path.read_text())
    for node in ast.walk(tree if for_types else WithoutTypeChecking().visit(tree)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        imported |= {name.removeprefix("ablate.") for name in names if name.startswith("ablate.")}
    return {name for name in imported if name in MODULES}


def packages_imported_by(path: Path) -> set[str]:
    """The first names of all imports."""
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import | ast.ImportFrom)]
    return {
        name.split(".")[0]
        for node in nodes
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_only_from_below(module: str) -> None:
    folder = module.split(".")[0]
    assert folder in ORDER, f"{folder} has no layer: add it to the plan in CONTRIBUTING.md and here"
    for imported in imports_of(MODULES[module]):
        other = imported.split(".")[0]
        assert ORDER.index(other) <= ORDER.index(folder), f"{module} imports {imported}, which is above it"


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = {module: imports_of(path, for_types=False) for module, path in MODULES.items()}
    while left:
        free = [module for module, imports in left.items() if not imports & left.keys()]
        assert free, f"these import each other in a circle: {sorted(left)}"
        for module in free:
            del left[module]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_imports_no_other_benchmark(path: Path) -> None:
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
    named = {n.module for n in nodes} | {f"{n.module}.{alias.name}" for n in nodes for alias in n.names}
    imported = {other.stem for other in (ROOT / "benchmarks").glob("*.py") if f"benchmarks.{other.stem}" in named}
    baselines = {"plain_a3c", "pendulum_kernel"}
    if path.stem == "main":  # the registry
        assert not imported & baselines
    else:
        assert imported <= (set() if path.stem in {"common", *baselines} else {"common", *baselines})


def test_the_package_imports_neither_benchmarks_nor_plugins() -> None:
    for module, path in MODULES.items():
        assert not packages_imported_by(path) & {"benchmarks", "hydra_plugins"}, module


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("analysis")))
def test_analysis_reads_only_files(module: str) -> None:
    files = {"records.schema", "records.files", "records.run_files", "records.study_file"}
    folders = {i if i in files else i.split(".")[0] for i in imports_of(MODULES[module])}
    assert folders <= {*GROUND, "config", "analysis"} | files
    assert "torch" not in packages_imported_by(MODULES[module])


def found_outside(pattern: re.Pattern[str], folders: set[str]) -> list[str]:
    """What the pattern matches in src/, except in these folders of the package."""
    return [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in (ROOT / "src").rglob("*.py")
        if not (path.is_relative_to(PACKAGE) and path.relative_to(PACKAGE).parts[0] in folders)
        for match in pattern.finditer(path.read_text())
    ]


def test_only_an_algorithms_own_folder_asks_which_algorithm_it_is() -> None:
    assert found_outside(WHICH_ALGORITHM, {"algos"}) == []


def test_network_and_environment_kinds_answer_for_themselves() -> None:
    assert found_outside(WHICH_KIND, {"nn", "envs", "compiled", "algos", "config"}) == []


def test_only_parallel_imports_multiprocessing() -> None:
    users = {m for m, path in MODULES.items() if "multiprocessing" in packages_imported_by(path)}
    assert users == {"parallel.shared", "parallel.supervisor"}


def test_src_is_not_a_package() -> None:
    assert not (ROOT / "src/__init__.py").exists()


def test_the_parent_process_does_not_import_torch() -> None:
    code = "import ablate.cli.hydra_app, ablate.analysis.figures, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
