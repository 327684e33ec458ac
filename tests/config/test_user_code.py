"""Code of the user's that is imported because the command line names it."""

from pathlib import Path

import pytest

from ablate.config import plugins
from ablate.config.schema import ConfigError


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E", "E: its text cannot be made"),
    ],
)
def test_a_module_that_fails_at_import_is_one_line(
    code: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unfit.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "_NAMED", type(plugins._NAMED)())
    with pytest.raises(ConfigError) as refusal:
        plugins.import_plugins(["unfit"])
    assert str(refusal.value).startswith(f"plugins=[unfit]: cannot be imported ({reason}")
