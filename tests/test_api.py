"""`ablate.train` and `ablate.study` from a script and from a notebook: the same program, folders and refusals."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import ROOT
from IPython.core.formatters import DisplayFormatter
from nbclient import NotebookClient
from omegaconf import OmegaConf
from synthetic import write_sweep

import ablate
from ablate import api
from ablate.analysis.sweep_figures import shows_data
from ablate.records.schema import COLUMNS, EPISODES, LAST_CHECKPOINT, STATUS

TINY = {
    "env": "cartpole", "backend": "manual", "workers": 1, "schedule": "interleaved", "max_episodes": 5,
    "evaluation": {"every_steps": 50, "every_seconds": None, "episodes": 2}, "figures": False,
}  # fmt: skip
ARMS = {"four": {"overrides": ["workers=4"]}, "two": {"overrides": ["workers=2"], "level": -2.0}}
CLAIM = {"id": "B1", "words": "Two workers end lower", "metric": "final_score", "inequality": "two < four"}


def with_path() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}


def test_train_runs_the_program_and_shows_its_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    run = ablate.train(**TINY, **{"hydra.run.dir": tmp_path / "a=1, b"})
    assert run.folder == tmp_path / "a=1, b"
    assert (run.state, run.config["env"]["id"]) == ("completed", "CartPole-v1")
    table = pd.read_csv(run.folder / EPISODES)
    pd.testing.assert_frame_equal(run.episodes, table)
    assert tuple(table) == COLUMNS[EPISODES]
    assert len(table) == 5
    shown = capfd.readouterr()
    assert shown.out.startswith("a3c · CartPole-v1 · 1 worker · interleaved · manual\n")
    assert "completed: 5 episodes" in shown.out
    assert shown.err == ""
    assert shows_data(run.plot())
    # Nothing but the program's own folder says which one it is: the caller's process has no state.
    assert api.CALLER not in os.environ
    assert signal.getsignal(signal.SIGINT) == before


def test_a_refusal_is_a_value_error_with_the_programs_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"^wokers=3: no such key; did you mean workers\?$"):
        ablate.train(wokers=3)
    assert capfd.readouterr() == ("", "")


def test_arguments_that_are_no_overrides_are_refused_before_a_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_run_program", lambda arguments: pytest.fail("started"))
    for call, line in (
        (lambda: ablate.train("-m", "workers=1,2"), "-m: an override has the form key=value"),
        (lambda: ablate.train("sweep=workers"), r"sweep=workers: ablate\.train trains one run; .*"),
        (lambda: ablate.train(sweep={"seeds": "0-4"}), r"sweep\.seeds=0-4: ablate\.train trains one run; .*"),
        (lambda: ablate.study(workers=object()), "workers=<object .*>: the value must be .*"),
        (lambda: ablate.study(sweep={"arms": {"ä": {}}}), "sweep.arms: ä: only ASCII letters .*"),
    ):
        with pytest.raises(ValueError, match=f"^{line}$"):
            call()


def test_values_arrive_as_they_were_given() -> None:
    """Hydra's own parser reads them back."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    values = {
        "a": None, "b": True, "c": 3, "d": -0.5, "e": "plain/path-1.yaml", "f": "it's, [a] = 'b' \\ {c: d} ü \\",
        "g": [1, "two words", [False, None], "null"], "h": 1e-7, "i": np.float32(0.5), "j": np.int64(7), "k": range(3),
        "l": np.array(3), "env.kwargs.port": "5000",
    }  # fmt: skip
    nested = {
        "one": {"label": "β = 0,1", "texts": {"a": "1e-4", "b": "true"}, "overrides": ["algo.gamma=0.9"]},
        "two": {},
    }
    arguments = api._arguments(["x=1"], {**values, "env.kwargs": {"mode": "true"}, "n": {"deep": nested}})
    parsed = OverridesParser.create().parse_overrides(arguments)
    found = {o.key_or_group: OmegaConf.to_container(OmegaConf.create({"v": o.value()}))["v"] for o in parsed}  # type: ignore[index, call-overload]
    assert {"++env.kwargs.port='5000'", "++env.kwargs.mode='true'"} <= set(arguments)
    expected = {**values, "i": 0.5, "j": 7, "k": [0, 1, 2], "l": 3, "x": 1, "n.deep": nested, "env.kwargs.mode": "true"}
    assert yaml.safe_load(json.dumps(found)) == yaml.safe_load(json.dumps(expected))
    with pytest.raises(ValueError, match="no-such-run"):
        ablate.Policy.load("no-such-run")


def test_a_study_has_the_tables_and_figures_of_its_report(tmp_path: Path) -> None:
    study = ablate.Study(write_sweep(tmp_path / "crews", ARMS, episodes=20, claims=(CLAIM,)))
    assert repr(study) == f"Study({str(study.folder)!r}, 12 of 12 cells completed)"
    assert list(study.verdicts["verdict"]) == ["supported"]
    assert set(study.summary["arm"]) == set(study.comparisons["baseline"]) | {"two"} == {"four", "two"}
    assert len(study.episodes) == 12 * 20
    assert len(study.cells) == 12
    figure = study.plot("curves_evaluation_global_step")
    assert shows_data(figure)
    assert DisplayFormatter().format(figure)[0]["image/png"].startswith(b"\x89PNG")  # as a notebook shows it
    assert len(study.run("two", 3).episodes) == 20
    with pytest.raises(ValueError, match=r"^tow: no such arm; did you mean two\?$"):
        study.run("tow", 0)
    with pytest.raises(ValueError, match=r"^arms_trainin: no such figure; did you mean arms_training\? \(there are: "):
        study.plot("arms_trainin")
    with pytest.raises(ValueError, match="not a sweep's folder"):
        ablate.Study(tmp_path)
    with pytest.raises(ValueError, match="not a run's folder"):
        ablate.Run(tmp_path)


def test_importing_ablate_imports_neither_torch_nor_hydra_nor_pandas() -> None:
    code = "import ablate, sys; sys.exit(str({'torch', 'hydra', 'pandas', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], env=with_path(), capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "set()"


SCRIPT = """
import ablate
print("main", flush=True)
run = ablate.train(env="cartpole", workers=2, backend="manual", max_episodes=20, **{{"hydra.run.dir": {first!r}}})
print(run.state, len(run.episodes) >= 20)
ablate.train(env="cartpole", workers=2, backend="manual", max_episodes=10**6, **{{"hydra.run.dir": {run!r}}})
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard_trains_and_is_stopped_by_ctrl_c(tmp_path: Path) -> None:
    """Spawned processes would run such a script again."""
    (tmp_path / "script.py").write_text(SCRIPT.format(first=str(tmp_path / "first"), run=str(tmp_path / "run")))
    script = subprocess.Popen(
        [sys.executable, "script.py"], cwd=tmp_path, env=with_path(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for_steps(tmp_path / "run", script)
        os.killpg(script.pid, signal.SIGINT)  # as a terminal does
        output, errors = script.communicate(timeout=120)
    finally:
        if script.poll() is None:
            script.kill()
    assert output.splitlines().count("main") == 1
    assert "completed True\n" in output
    assert errors.splitlines()[-1] == f"KeyboardInterrupt: stopped; what is done is in {tmp_path / 'run'}"
    assert json.loads((tmp_path / "run" / STATUS).read_text())["state"] == "interrupted"
    assert (tmp_path / "run" / LAST_CHECKPOINT).exists()


@pytest.mark.slow
def test_a_run_stops_with_a_checkpoint_if_its_caller_is_killed(tmp_path: Path) -> None:
    call = f"ablate.train('hydra.run.dir={tmp_path / 'run'}', env='cartpole', backend='manual', max_episodes=10**6)"
    code = f"import ablate; {call}"
    caller = subprocess.Popen([sys.executable, "-c", code], env=with_path(), stdout=subprocess.DEVNULL)
    wait_for_steps(tmp_path / "run", caller)
    caller.kill()
    caller.wait()
    deadline = time.monotonic() + 60
    while status_of(tmp_path / "run").get("state") == "running" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert status_of(tmp_path / "run")["state"] == "interrupted"
    assert (tmp_path / "run" / LAST_CHECKPOINT).exists()


def status_of(folder: Path) -> dict[str, object]:
    with contextlib.suppress(OSError):
        return json.loads((folder / STATUS).read_text())  # type: ignore[no-any-return]
    return {}


def wait_for_steps(folder: Path, program: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while not status_of(folder).get("steps"):
        assert program.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NotebookClient]:
    """A kernel in which each call has a folder of its own in tmp_path."""
    monkeypatch.setenv("PYTHONPATH", with_path()["PYTHONPATH"])
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=240, kernel_name="python3")
    client.resources = {"metadata": {"path": str(tmp_path)}}
    with client.setup_kernel():
        yield client


@pytest.mark.slow
def test_the_first_notebook_runs(kernel: NotebookClient, tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "notebooks/start.ipynb", as_version=4)
    for cell in (code := [cell for cell in notebook.cells if cell.cell_type == "code"]):
        assert cell.outputs == []
        cell.source = re.sub(r"ablate\.train\(", f'ablate.train("hydra.run.dir={tmp_path}/run", ', cell.source)
        cell.source = re.sub(r"ablate\.study\(", f'ablate.study("hydra.sweep.dir={tmp_path}/swept", ', cell.source)
    kernel.nb = notebook
    for index, cell in enumerate(notebook.cells):
        kernel.execute_cell(cell, index)
    shown = ["".join(str(output.get("text", output.get("data"))) for output in cell.outputs) for cell in code]
    assert "completed: 100 episodes" in shown[0]
    assert "episodic_return" in shown[1]
    assert "10 of 10 cells completed" in next(
        text for cell, text in zip(code, shown, strict=True) if "swept" in cell.source
    )
    assert sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs) == 2


@pytest.mark.slow
def test_an_interrupted_cell_of_a_notebook_leaves_a_checkpoint_and_a_kernel_that_goes_on(
    kernel: NotebookClient, tmp_path: Path
) -> None:
    """The kernel gets SIGINT, as from the button."""
    import threading

    call = f"ablate.train('hydra.run.dir={tmp_path}/run', env='cartpole', backend='manual', max_episodes=10**6)"
    kernel.allow_errors = True
    cells = [
        nbformat.v4.new_code_cell(text)
        for text in (f"import ablate\n{call}", f"run = ablate.Run('{tmp_path}/run')\nprint(run.state)")
    ]
    kernel.nb.cells = cells

    def interrupt() -> None:
        deadline = time.monotonic() + 240
        while not status_of(tmp_path / "run").get("steps") and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(os.getpgid(kernel.km.provisioner.process.pid), signal.SIGINT)  # type: ignore[union-attr]

    thread = threading.Thread(target=interrupt)
    thread.start()
    for index, cell in enumerate(cells):
        kernel.execute_cell(cell, index)
    thread.join()
    error = next(output for output in cells[0].outputs if output.output_type == "error")
    assert error.ename == "KeyboardInterrupt"
    assert "episodes" in "".join(output.get("text", "") for output in cells[0].outputs)
    assert [output.text for output in cells[1].outputs] == ["interrupted\n"]
    assert (tmp_path / "run" / LAST_CHECKPOINT).exists()
