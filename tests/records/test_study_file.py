"""study.json is parsed once; a damaged file is refused in one line that says what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic import write_sweep

from ablate.config.choices import Statistic
from ablate.config.schema import ConfigError
from ablate.records import study_file
from ablate.records.schema import STUDY
from ablate.records.study_file import read_study, write_study

CLAIM = {"id": "C1", "words": "workers help", "metric": "auc", "inequality": "b < a"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sweep(tmp_path, {"a": {}, "b": {}}, range(1), 5, claims=(CLAIM,))


@pytest.mark.parametrize(
    ("given", "hint"),
    [("acrobot_lambda", "; did you mean SWEEPS/acrobot_lambda?"), ("lambda", "; did you mean SWEEPS/acrobot_lambda?"),
     ("workers", "")],
)  # fmt: skip
def test_a_wrong_folder_is_answered_with_the_sweep_of_that_name(
    given: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_file, "OUTPUTS", tmp_path / "outputs")
    sweeps = tmp_path / "outputs/sweeps"
    write_sweep(sweeps / "acrobot_lambda", {"a": {}}, range(1), 5)
    (sweeps / "workers").mkdir()  # not a sweep
    with pytest.raises(ConfigError) as refusal:
        read_study(tmp_path / given)
    assert str(refusal.value).endswith(f"it has no {STUDY}{hint.replace('SWEEPS', str(sweeps))}")


def test_a_study_is_read_as_it_was_written(folder: Path) -> None:
    study = read_study(folder)
    assert study.metrics["speed"].statistic is Statistic.first_reach
    assert study.claims[0].real_time is False
    assert (study.seeds, study.provenance.cpus, study.changes) == ([0], 2, [])
    before = json.loads((folder / STUDY).read_text())
    write_study(folder, study)
    after = json.loads((folder / STUDY).read_text())
    added: dict[str, Any] = {
        "python": "",
        "changes": [],
        "until": "seeds",
        "block": 5,
        "floor": None,
        "design": None,
        "factors": {},
    }
    added |= {"figures": {"width_mm": None, "font_size": 8.0}, "search": None}
    added |= {"references": {}, "claims": [{**own, "environment": None} for own in before["claims"]]}
    added |= {"arms": {arm: {**own, "seeds": None} for arm, own in before["arms"].items()}}
    assert after == {**before, **added, "score_units": {}, "random_scores": {}}
    assert read_study(folder) == study


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda study: study.pop("arms"), "it has no arms"),
        (lambda study: study.pop("machine"), "it has no machine"),
        (lambda study: study["arms"]["a"].pop("config"), "it has no arms.a.config"),
        (lambda study: study["metrics"]["auc"].pop("source"), "it has no metrics.auc.source"),
        (lambda study: study["claims"][0].pop("words"), "it has no claims.0.words"),
        (lambda study: study["metrics"]["auc"].update(x="hours"), "metrics.auc.x=hours: input should be"),
        (lambda study: study.update(seeds=["x"]), "seeds.0=x: input should be a valid integer"),
        (lambda study: study.update(baseline="c"), "baseline=c: not one of the arms"),
        (lambda study: study.update(schema_version=0), "schema_version=0; 1 is needed"),
        (lambda study: study.update(seeds=[0, 1, 0]), "seeds=[0, 1, 0]: each is at least 0 and given once"),
        (lambda study: study.update(seeds=[-1]), "seeds=[-1]: each is at least 0 and given once"),
        (lambda study: study.update(metric="x" * 500), f"metric={'x' * 60}: not one of the metrics"),
        (lambda study: study.update(question="\ud800"), "unexpected end of hex escape"),  # no text: half of a letter
    ],
)
def test_a_study_that_does_not_fit_is_refused_in_one_line(
    folder: Path, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    study = json.loads((folder / STUDY).read_text())
    change(study)
    (folder / STUDY).write_text(json.dumps(study))
    with pytest.raises(ConfigError) as refusal:
        read_study(folder)
    message = str(refusal.value)
    assert message.startswith(f"{folder / STUDY}: cannot be read ({reason}")
    assert "move it away" in message
    assert "\n" not in message
