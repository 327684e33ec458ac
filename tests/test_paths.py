"""Paths in files that are shared."""

import shlex
from pathlib import Path

import pytest

from ablate import paths
from ablate.runs.console import resume_command


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("dir: /home/me/ablate/outputs/sweeps/x\n", "dir: outputs/sweeps/x\n"),
        ("cwd: /home/me/ablate\n", "cwd: .\n"),
        ("['/home/me/ablate']", "['.']"),
        ("hydra.sweep.dir='/home/me/ablate/outputs'", "hydra.sweep.dir='outputs'"),
        ("/home/me/ablate-2/conf", "/home/me/ablate-2/conf"),
        ("/mnt/home/me/ablate/conf", "/mnt/home/me/ablate/conf"),
        ("/home/me/notes/a", "/home/me/notes/a"),
    ],
)
def test_a_shared_text_names_no_folder_of_this_machine(monkeypatch: pytest.MonkeyPatch, text: str, shared: str) -> None:
    monkeypatch.setattr(paths, "ROOT", Path("/home/me/ablate"))
    monkeypatch.setattr(paths, "STARTED_IN", Path("/"))
    assert paths.portable(text) == shared


def test_a_path_of_an_unknown_user_stays_as_it_is() -> None:
    assert paths.locate("~nosuch/run") == paths.STARTED_IN / "~nosuch/run"


def test_the_command_to_continue_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / "my runs" / "a&b" / "seed=1"
    assert f"resume={folder}" in shlex.split(resume_command(folder))
    assert " resume=/runs/seed=1" in resume_command(Path("/runs/seed=1"))
