"""study.json of a sweep's folder: this study, together with what the folder already had."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ablate.config.choices import ScoreUnit, Until
from ablate.config.derived import default_score_unit
from ablate.config.serial import to_dict
from ablate.records.files import replace_atomically
from ablate.records.manifest import provenance
from ablate.records.schema import STUDY_SOURCE, VERDICTS, cell_folder
from ablate.records.study_file import Provenance, StudyArm, StudyChange, StudyFile, write_study
from ablate.sweeps.cell import status_of
from ablate.sweeps.environments import references_of, with_random_scores
from ablate.sweeps.plan import SweepPlan, stored_study
from ablate.sweeps.study import identity


def record_study(plan: SweepPlan) -> None:
    """Write study.json: this study, with the arms and seeds that its folder already had."""
    study, settings = plan.study, plan.study.settings
    before = stored_study(plan.folder)
    grown = before is not None and before.until is Until.decided
    arms = {
        arm.name: StudyArm(
            label=arm.label,
            overrides=list(arm.overrides),
            identity=identity(plan.configs[arm.name]),
            config=to_dict(plan.configs[arm.name]),
            levels=study.levels.get(arm.name, {}),
            arm=study.crossed.get(arm.name, ("", ""))[0],
            environment=study.crossed.get(arm.name, ("", ""))[1],
        )
        for arm in study.arms
    }
    units, random_scores = _score_units(plan, before), before.random_scores if before else {}
    references = references_of(settings, study.crossed, plan.configs)
    if before and references:
        references = {**before.references, **references}  # arms of environments that are left out now are there still
    now = StudyFile(
        name=plan.folder.name,
        question=settings.question,
        baseline=settings.baseline or study.arms[0].name,
        metric=settings.metric,
        metrics=settings.metrics,
        smallest_effect=settings.smallest_effect,
        claims=settings.claims,
        arms={**(before.arms if before else {}), **arms},
        seeds=sorted({*(before.seeds if before else ()), *study.seeds}),
        provenance=Provenance(**provenance(sys.argv)),
        changes=before.changes if before else [],
        floor=settings.floor,
        # A study that grew until it was decided stays one: its looks cannot be undone.
        until=before.until if before and grown else settings.until,
        block=before.block if before and grown else settings.block,
        score_units=units,
        design=settings.design,
        factors={**(before.factors if before else {}), **study.factors},
        random_scores=random_scores,
        references=with_random_scores(references, random_scores, units),
        figures=settings.figures,
        search=study.search,
    )
    if before:
        if (what := [*_changes(before, now)]) and (completed := _completed(plan.folder, before)):
            seen = before.seeds if now.seeds != before.seeds and (plan.folder / VERDICTS).exists() else []
            change = StudyChange(when=now.provenance.started, completed=completed, what=what, seeds=seen)
            now = replace(now, changes=[*now.changes, change])
        now = replace(now, provenance=replace(now.provenance, started=before.provenance.started))
    write_study(plan.folder, now)
    if study.source:
        replace_atomically(plan.folder / STUDY_SOURCE, study.source.read_bytes())


def _completed(folder: Path, study: StudyFile) -> int:
    """How many cells of the folder are completed, whether or not the command asks for them again."""
    cells = (status_of(cell_folder(folder, arm, seed)) for arm in study.arms for seed in study.seeds)
    return sum(status is not None and status.state == "completed" for status in cells)


def _score_units(plan: SweepPlan, before: StudyFile | None) -> dict[str, ScoreUnit]:
    """The unit of a score by environment: what the study gives, or what it had at its start, or the default."""
    given = plan.study.settings.score
    earlier = before.score_units if before else {}
    ids = {config.env.id for config in plan.configs.values()}
    return {**earlier, **{env: given or earlier.get(env) or default_score_unit(env) for env in sorted(ids)}}


def _changes(before: StudyFile, now: StudyFile) -> Iterator[str]:
    """The changes in the judgement or the size of a study, in words."""
    for key in ("baseline", "metric", "smallest_effect", "floor", "until", "block", "design"):
        if (old := getattr(before, key)) != (new := getattr(now, key)):
            yield f"{key} {old} -> {new}"
    if {env: r.high for env, r in before.references.items()} != {env: r.high for env, r in now.references.items()}:
        yield "the reference scores"
    for env, unit in before.score_units.items():
        if unit != now.score_units[env]:
            yield f"the unit of scores in {env} {unit} -> {now.score_units[env]}"
    for name in sorted({*before.metrics, *now.metrics}):
        if before.metrics.get(name) != now.metrics.get(name):
            yield f"the metric {name}"
    old_claims, new_claims = ({claim.id: claim for claim in study.claims} for study in (before, now))
    for name in sorted({*old_claims, *new_claims}):
        if old_claims.get(name) != new_claims.get(name):
            yield f"the claim {name}"
    if before.search != now.search:
        yield "the search"
    if now.search and not now.search.best:
        return  # the trials of a search are added as it goes on
    if more := [name for name in now.arms if name not in before.arms]:
        yield f"arms added: {', '.join(more)}"
    if more := [str(seed) for seed in now.seeds if seed not in before.seeds]:
        yield f"seeds added: {', '.join(more)}"
