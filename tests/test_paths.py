"""Paths in files that are shared."""

from pathlib import Path

import pytest

from ablate import paths


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
