"""src/evaluate.py: episodes, scores, videos and the summary."""

from __future__ import annotations

import csv
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import cv2
import gymnasium
import numpy as np
import pytest
from helpers import config_of
from scipy import stats

from ablate.cli import evaluate, video
from ablate.config.schema import Config, ConfigError
from ablate.config.serial import to_dict
from ablate.envs.make import spec_of
from ablate.envs.reference_scores import SCORES, reference_scores
from ablate.nn.architecture import architecture_of, initial_parameters
from ablate.play.episodes import Episode
from ablate.play.policy import Policy
from ablate.records.checkpoint import Checkpoint, write_checkpoint
from ablate.records.schema import LAST_CHECKPOINT
from ablate.seeding import Role, generator
from ablate.types import Score


def saved_run(folder: Path, config: Config, **tensors: np.ndarray) -> Path:
    """A run's folder with a checkpoint of random parameters."""
    spec = spec_of(config.env)
    parameters = initial_parameters(architecture_of(config.model, spec), generator(1, Role.parameters))
    state = {"config": to_dict(config), "env_spec": asdict(spec)}
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(folder / LAST_CHECKPOINT, Checkpoint({"parameters": parameters, **tensors}, state))
    (folder / "manifest.json").write_text("{}")
    return folder


Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """`python src/evaluate.py <arguments>` in this process, which has imported torch already.

    tests/examples/test_my_algorithm.py starts it as a program."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr("sys.argv", ["src/evaluate.py", *arguments])
        code = evaluate.program()
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


def episodes_of(*returns: float) -> list[Episode]:
    return [Episode(i, 0, Score(value, 10), []) for i, value in enumerate(returns)]


def frames_of(video: Path) -> int:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    return int(imageio_ffmpeg.count_frames_and_secs(str(video))[0])


def test_the_summary_equals_a_calculation_by_hand() -> None:
    """Three games of Breakout. Human-normalised, 1.7 points (random policy) are 0, and 30.5 points (human) are 1."""
    first, second, _, human, note = evaluate.summary(episodes_of(16.1, 30.5, 1.7), (1.7, 30.5))
    half = 4.302652729911275 * 14.4 / np.sqrt(3)  # t(0.975, 2 degrees of freedom) · standard error
    assert first == f"return   mean 16.10 ± {half:.2f} (95 %)"
    assert second.split() == ["median", "16.10", "min", "1.70", "max", "30.50"]
    assert human.startswith(f"human    0.50 ± {half / 28.8:.2f} (95 %); a random policy")
    assert note.startswith("note     from 3 episodes: the interval assumes normally distributed returns")
    assert evaluate.mean_and_interval(np.arange(100.0)) == f"49.50 ± {stats.t.ppf(0.975, 99) * 2.9011:.2f} (95 %)"


def test_the_summary_omits_an_unknown_human_score() -> None:
    for env_id in ("Pendulum-v1", "ALE/Adventure-v5", "CartPole-v1"):
        assert reference_scores(env_id) is None
    assert [line.split()[0] for line in evaluate.summary(episodes_of(*range(100)), None)] == ["return", "median", "per"]


def test_the_scores_are_written_though_nobody_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python src/evaluate.py run | head -1`."""
    folder = saved_run(tmp_path / "run", config_of("env=cartpole"))
    monkeypatch.setattr("sys.argv", ["src/evaluate.py", f"run={folder}", "episodes=2"])
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr("sys.stdout", output)
        assert evaluate.program() == 0
    assert len((folder / "scores.csv").read_text().splitlines()) == 3


def test_earlier_scores_are_replaced_and_the_program_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved_run(tmp_path / "run", config_of("env=cartpole"))
    monkeypatch.setattr("sys.argv", ["src/evaluate.py", f"run={folder}", "episodes=1"])
    monkeypatch.setattr("ablate.paths.STARTED_IN", tmp_path)  # below it, paths are shown as one types them
    lines = []
    for _ in range(2):
        assert evaluate.program() == 0
        lines.append(capsys.readouterr().out.splitlines()[-1])
    assert lines == ["scores   run/scores.csv", "scores   run/scores.csv (its earlier scores are replaced)"]


@pytest.mark.parametrize("variant", [(), ("env.mode=4",)])
def test_only_the_default_variant_of_a_game_has_a_human_score(
    tmp_path: Path, variant: tuple[str, ...], program: Program
) -> None:
    run = saved_run(
        tmp_path / "run", config_of("env=breakout", "model=conv_pool_lstm_80", "env.preprocessing=report_80", *variant)
    )
    done = program(f"run={run}", "episodes=2", "horizon=5")
    assert done.returncode == 0, done.stderr
    assert ("human    " in done.stdout) == (not variant)


def test_a_mistyped_run_suggests_the_nearest_path(tmp_path: Path, program: Program) -> None:
    saved_run(tmp_path / "breakout_1", config_of("env=cartpole"))
    saved_run(tmp_path / "other", config_of("env=cartpole"))
    typo = tmp_path / "braekout_1"
    done = program(f"run={typo}")
    assert done.returncode == 2
    assert done.stderr == f"{typo}: no such run or checkpoint; did you mean {tmp_path / 'breakout_1'}?\n"
    checkpoint = tmp_path / "breakout_1" / LAST_CHECKPOINT
    done = program(f"run={checkpoint.with_name('lst.safetensors')}")
    assert done.stderr.endswith(f"; did you mean {checkpoint}?\n")
    assert "give a run's folder" in program("run=qqqqqqqqqqqqqqqqqqqqqqqqqqqq").stderr


def test_every_game_with_reference_scores_exists() -> None:
    ale_py = pytest.importorskip("ale_py")
    gymnasium.register_envs(ale_py)
    assert len(SCORES) == 57
    for game, (random, human) in SCORES.items():
        assert random < human
        assert f"ALE/{game}-v5" in gymnasium.registry
        for env_id in (f"ALE/{game}-v5", f"{game}NoFrameskip-v4", f"{game}-v0", f"{game}-v4"):
            assert reference_scores(env_id) == (random, human)


def test_the_first_best_and_the_lower_median_episode_are_chosen() -> None:
    chosen = evaluate.best_and_median(episodes_of(3.0, 9.0, 1.0, 9.0, 5.0, 4.0))
    assert {name: episode.number for name, episode in chosen.items()} == {"best": 1, "median": 5}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "run: no value; give run="),
        (["run=x", "episode=3"], "episode=3: no such option; did you mean episodes?"),
        (["run=x", "episodes=0"], "episodes=0: it must be at least 1"),
        (["run=x", "seed=-1"], "seed=-1: it must be at least 0"),
        (["run=x", "episodes=many"], "episodes=many: "),
        (["run=x", "episodes=???"], "episodes=???: no value"),
        (["run=x", "plugins=foo"], "plugins=foo: a list is needed, as in plugins=[foo]"),
        (["run=x", "action=best"], "action=best: "),
        (["run=x", "render=rgb"], "render=rgb: only render=human is possible"),
        (["run=x", "render=human", "video=true"], "render=human video=true: give only one of them"),
    ],
)
def test_bad_options_are_refused_in_one_line(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        evaluate.read_options(arguments)
    assert str(refusal.value).startswith(words)
    assert "\n" not in str(refusal.value)


def no_room(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("from_the_start", [True, False])
def test_scores_are_printed_whatever_happens_to_their_file(
    from_the_start: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it cannot be written from the start, a note says so before the first episode."""
    run = saved_run(tmp_path / "run", config_of("env=cartpole"))
    monkeypatch.setattr("sys.argv", ["src/evaluate.py", f"run={run}", "episodes=2"])
    if from_the_start:
        monkeypatch.setattr("ablate.records.files.tempfile.TemporaryFile", no_room)
    monkeypatch.setattr(evaluate, "replace_atomically", no_room)
    assert evaluate.program() == 1
    printed = capsys.readouterr()
    assert "return   mean " in printed.out
    assert printed.err.splitlines()[from_the_start:] == [
        "failed: the scores above could not be written: [Errno 28] No space left on device"
    ]
    note = f"note     {run}: no file can be written in {run} (No space left on device): the scores are only printed"
    assert (printed.err.splitlines()[0] == note) == from_the_start


def test_a_video_that_could_not_be_written_is_refused_before_playing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved_run(tmp_path / "run", config_of("env=cartpole"))
    (run / "videos").write_text("in its place")
    monkeypatch.setattr("sys.argv", ["src/evaluate.py", f"run={run}", "episodes=2", "frames=true"])
    assert evaluate.program() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"{run / 'videos'}: videos is no folder; give another one\n"


def test_a_checkpoint_whose_parameters_do_not_fit_is_refused(tmp_path: Path) -> None:
    run = saved_run(tmp_path / "run", config_of("env=cartpole"), parameters=np.zeros(1, np.float32))
    with pytest.raises(ValueError, match=r"^the checkpoint has 1 parameters, and its network needs \d+$"):
        Policy.load(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", [("env=pendulum",), ("env=breakout", "model=conv_pool_lstm_80", "env.preprocessing=report_80")]
)
def test_evaluate_writes_scores_and_videos(tmp_path: Path, overrides: tuple[str, ...], program: Program) -> None:
    """Pendulum is played in this process, a game in several. The videos show the best and the median episode."""
    pytest.importorskip("moviepy")
    run = saved_run(tmp_path / "run", config_of(*overrides))
    done = program(f"run={run}", "episodes=5", "horizon=300", "action=sample", "video=true", "frames=true")
    assert done.returncode == 0, done.stderr
    with (run / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["episode"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert {(row["horizon"], row["protocol"]) for row in rows} == {("300", "sample")}
    returns = [float(row["episodic_return"]) for row in rows]
    assert f"mean {np.mean(returns):.2f}" in done.stdout
    assert ("human" in done.stdout) == ("env=breakout" in overrides)
    named = dict(re.findall(r"evaluation-(\w+)\.mp4 \(episode (\d)", done.stdout))
    assert named == {
        "best": str(np.argmax(returns) + 1),
        "median": str(np.argsort(returns, kind="stable")[2] + 1),
    }
    for name, episode in named.items():
        assert frames_of(run / f"videos/evaluation-{name}.mp4") == int(rows[int(episode) - 1]["episodic_length"]) + 1
        images = list((run / f"videos/evaluation-{name}").iterdir())
        assert len(images) == int(rows[int(episode) - 1]["episodic_length"]) + 1
    again = program(f"run={run}", "episodes=3", "horizon=300", "action=sample")
    assert again.returncode == 0, again.stderr
    assert (run / "scores.csv").read_text().splitlines() == [
        ",".join(rows[0]),
        *(",".join(r.values()) for r in rows[:3]),
    ]


def test_a_video_that_does_not_match_its_score_is_refused(tmp_path: Path) -> None:
    """If the return of the replayed episode differs from its score, the video file is removed."""
    pytest.importorskip("moviepy")
    config = config_of("env=cartpole")
    episode = Episode(0, 3, Score(4.0, 3), [0, 1, 0])  # three steps give a return of 3
    with pytest.raises(ConfigError, match=r"^CartPole-v1 is not reproducible from a seed .*4.* 3"):
        video.write_video(evaluate.replayed(config, 10, episode), 50.0, tmp_path / "x.mp4")
    assert not (tmp_path / "x.mp4").exists()
    right = episode._replace(score=Score(3.0, 3))
    video.write_video(evaluate.replayed(config, 10, right), 50.0, tmp_path / "x.mp4")
    assert frames_of(tmp_path / "x.mp4") == 4
    video.write_images(evaluate.replayed(config, 10, right), tmp_path / "x")
    drawn = [cv2.imread(str(path)) for path in sorted((tmp_path / "x").iterdir())]
    assert [image.shape for image in drawn] == [(400, 600, 3)] * 4
    assert (drawn[0] != drawn[3]).any()


def test_no_role_plays_the_games_of_another() -> None:
    """src/evaluate.py with its default seed played the games of a run with seed 0 by which `best` was chosen."""
    later = evaluate.episode_streams(0, 20)
    of_the_run = [generator(0, role, i) for role in (Role.environment, Role.action, Role.evaluation) for i in range(20)]
    draws = [stream.integers(2**62) for stream in (*later, *of_the_run)]
    assert len(set(draws)) == len(draws)
