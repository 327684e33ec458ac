"""The plain loop of the benchmark is a correct A3C, and the benchmarks measure all rows of their tables."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT

from ablate.cli.compose import compose_and_plan
from benchmarks import compiled, dqn, plain_a3c
from benchmarks.common import Mark, steps_per_second


def test_each_push_of_the_plain_loop_is_this_rollouts_gradient() -> None:
    """Over many updates in a row: if gradients were not cleared, only the first would be right."""
    torch.manual_seed(0)
    gnet = plain_a3c.ActorCritic()
    optimizer = plain_a3c.SharedAdam(gnet)
    worker = plain_a3c.PlainWorker(gnet, optimizer, seed=1)
    step, update = optimizer.step, worker.update
    expected: list[tuple[torch.Tensor, ...]] = []
    pushed: list[list[torch.Tensor]] = []

    def spied_update(done: bool, s_next: np.ndarray, bs: list, ba: list, br: list) -> None:
        expected.append(gradient_of_the_report(worker.lnet, done, s_next, np.array(bs), np.array(ba), br))
        update(done, s_next, bs, ba, br)
        for local, pulled in zip(worker.lnet.parameters(), gnet.parameters(), strict=True):
            torch.testing.assert_close(local, pulled, rtol=0, atol=0)

    def spied_step() -> None:
        pushed.append([parameter.grad.clone() for parameter in gnet.parameters() if parameter.grad is not None])
        step()

    worker.update, optimizer.step = spied_update, spied_step  # type: ignore[method-assign,assignment]
    episodes = 0
    for steps, episodic_return in worker.train():
        assert steps == plain_a3c.T_MAX
        episodes += episodic_return is not None
        if episodes == 2:
            break
    assert len(pushed) == 2 * plain_a3c.MAX_EP_STEP // plain_a3c.T_MAX
    for ours, theirs in zip(pushed, expected, strict=True):
        torch.testing.assert_close(ours, list(theirs), rtol=1e-4, atol=1e-5)


def gradient_of_the_report(
    net: plain_a3c.ActorCritic, done: bool, s_next: np.ndarray, s: np.ndarray, a: np.ndarray, r: list[float]
) -> tuple[torch.Tensor, ...]:
    """∂/∂θ mean_t (R - V)² - [log π(a|s) (R - V) + 0.005 H(π)] with γ = 0.9, without torch's Normal."""
    mu, sigma, value = (output.squeeze(-1) for output in net(torch.from_numpy(s)))
    last = 0.0 if done else net(torch.from_numpy(s_next)[None])[2].item()
    returns = torch.tensor(
        [sum(0.9**k * x for k, x in enumerate(r[t:])) + 0.9 ** (len(r) - t) * last for t in range(len(r))]
    )
    log_prob = -((torch.from_numpy(a).squeeze(-1) - mu) ** 2) / (2 * sigma**2) - sigma.log() - 0.5 * np.log(2 * np.pi)
    entropy = 0.5 * torch.log(2 * np.pi * np.e * sigma**2)
    loss = ((returns - value) ** 2 - log_prob * (returns - value).detach() - 0.005 * entropy).mean()
    return torch.autograd.grad(loss, list(net.parameters()))


def test_a_rate_is_of_the_second_half_of_the_steps() -> None:
    """The order of the rows does not matter."""
    marks = [Mark(step, time_s) for step, time_s in ((1000, 5.0), (0, 1.0), (100, 2.0), (500, 3.0), (900, 4.8))]
    assert steps_per_second(marks) == 250.0
    assert steps_per_second(marks[:2]) == 250.0  # two rows: the whole run
    with pytest.raises(RuntimeError, match="give more --seconds"):
        steps_per_second(marks[:1])


def test_a_rate_starts_when_each_worker_has_ended_an_episode() -> None:
    marks = [Mark(*mark) for mark in ((200, 1.0, 0), (400, 2.0, 0), (1000, 5.0, 0), (600, 3.0, 1))]
    assert steps_per_second(marks, workers=2) == 200.0
    late = [*marks, Mark(1300, 6.0, 2), Mark(1800, 8.0, 0)]
    assert steps_per_second(late, workers=3) == 250.0
    with pytest.raises(RuntimeError, match="give more --seconds"):
        steps_per_second(marks, workers=3)


def benchmark(*arguments: str, first: str = "") -> subprocess.CompletedProcess[str]:
    """`python src/benchmark.py <arguments>`. first: Python statements before it, that make it smaller."""
    program = f"import sys; sys.path[:0] = {[str(ROOT / 'src'), str(ROOT)]}\n{first}\n"
    program += "from benchmarks.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=880)


@pytest.mark.slow
def test_a3c_shows_all_rows_with_positive_numbers() -> None:
    command = [sys.executable, str(ROOT / "src/benchmark.py"), "--seconds", "0.5", "--repeats", "1", "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    rates = {tuple(row[:4]): row[4:] for row in rows if row[:1] in (["plain"], ["ablate"]) and "1" in row[3:4]}
    assert set(rates) == {
        ("plain", "autograd", "async", "1"),
        *(("ablate", b, s, "1") for b in ("manual", "autograd") for s in ("async", "interleaved")),
    }
    for (loop, *_), (rate, spread, *ratio) in rates.items():
        assert float(rate) > 0
        assert all(float(x) > 0 for x in spread.split("–"))
        assert not ratio if loop == "plain" else float(ratio[0]) > 0 and ratio[1] in ("yes", "no")
    parts = {
        match[1]: match[2].split()
        for match in re.finditer(r"^ *(plain|ablate \w+)((?: +[\d.]+){5}) *$", done.stdout, re.M)
    }
    assert set(parts) == {"plain", "ablate manual", "ablate autograd"}
    assert all(float(number) > 0 for numbers in parts.values() for number in numbers)
    for part in parts.values():
        *split, total = map(float, part)
        assert sum(split) == pytest.approx(total, abs=0.5)
    assert "machine " in done.stdout
    assert "torch 2" in done.stdout
    assert "env.step alone" in done.stdout
    assert "again: python src/benchmark.py a3c --seconds 0.5 --repeats 1 --workers 1" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("plain", [True, False])
def test_the_kernel_for_s1_alone_does_the_same_work(plain: bool) -> None:
    """The parameters are the same after 60 updates of 3 workers and the end of an episode: speeds are comparable."""
    general, s1 = compiled.Study(3, rollouts=20), compiled.S1Study(3, plain, rollouts=20)
    start = general.shared.theta.copy()
    general.advance()
    s1.advance()
    assert np.abs(general.shared.theta - start).max() > 1e-3
    np.testing.assert_allclose(s1.shared.theta, general.shared.theta, atol=1e-4)


@pytest.mark.slow
def test_compiled_times_every_part_of_a_step() -> None:
    """The parts are kernels of the benchmark: no type checker notices if they no longer fit the package."""
    table = compiled.parts_table(compiled.Study(1, rollouts=20), repeats=1, program_ns=1e6)
    nanoseconds = dict(zip(table.columns[0].cells, map(float, table.columns[1].cells), strict=True))
    assert len(nanoseconds) == 11
    assert nanoseconds["all"] == 1e6
    for part in ("dynamics and observation", "actor forward", "critic forward", "backward", "Adam and pull"):
        assert nanoseconds[part] > 0


@pytest.mark.slow
@pytest.mark.parametrize("replay", ["uniform", "prioritized"])
def test_dqn_times_every_part_of_an_update(replay: str) -> None:
    overrides = ["algo=dqn", "env=breakout", "backend=manual", "precision=float32", f"replay={replay}"]
    plan = compose_and_plan(overrides)
    assert all(seconds > 0 for seconds in dqn.update_parts(plan))
    assert dqn.update_flops(plan.architecture) == pytest.approx(2.18e9, rel=0.01)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_atari_measures_emulator_environments_training_and_parts() -> None:
    """Of its four networks, only the one that takes the least time."""
    fewer = "from benchmarks.atari import NETWORKS; [NETWORKS.pop(m) for m in [*NETWORKS] if m != 'conv_lstm_42']"
    done = benchmark("atari", "--seconds", "0.3", "--repeats", "1", "--workers", "1", first=fewer)
    assert done.returncode == 0, done.stderr
    number = r"[\d.]+"
    kinds = ("emulator", "gymnasium's AtariPreprocessing", "ale-py's vector environment")
    for kind in (*kinds, "conv_lstm_42"):
        assert re.search(rf"^ *{kind} +1 +{number} +{number}–{number} +{number} *$", done.stdout, re.M), kind
    for backend, games in (("manual", 8), ("autograd", 8), ("manual", 1)):
        row = f"^ *conv_lstm_42 +{backend} +"
        trained = re.search(
            rf"{row}1 +{games} +({number}) +{number}–{number} +{number} +({number}) +(yes|no) *$", done.stdout, re.M
        )
        assert trained
        assert float(trained[1]) > 0
        assert 50 < float(trained[2]) < 2000  # MB
        split = re.search(rf"{row}{games}((?: +{number}){{6}}) *$", done.stdout, re.M)
        assert split
        *parts, total = map(float, split[1].split())
        assert sum(parts) == pytest.approx(total, abs=5)
    assert "again: python src/benchmark.py atari --seconds 0.3 --repeats 1 --workers 1" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_learning_scores_a_run_next_to_random_play() -> None:
    """Each policy plays 12 games instead of 100."""
    fewer = "from benchmarks import learning; learning.GAMES = 12"
    done = benchmark("learning", "--seconds", "25", "--workers", "1", first=fewer)
    assert done.returncode == 0, done.stderr
    score = r"([\d.]+) +([\d.]+)–([\d.]+)"
    random = re.search(rf"^ *random +{score} *$", done.stdout, re.M)
    trained = re.search(rf"^ *default +1 +1 +([\d,]+) +{score} +(yes|no) *$", done.stdout, re.M)
    before = re.search(rf"^ *old default +1 +1 +([\d,]+) +{score} +(yes|no) +([\d.]+) *$", done.stdout, re.M)
    assert random
    assert trained
    assert before
    assert float(before[6]) == pytest.approx(float(trained[2]) / float(before[2]), abs=0.06)
    assert int(trained[1].replace(",", "")) > 0
    assert (float(trained[3]) > 2 * float(random[3])) == (trained[5] == "yes")
    for mean, low, high in (random.groups(), trained.groups()[1:4]):
        assert 0 <= float(low) < float(mean) < float(high)
    assert "again: python src/benchmark.py learning --seconds 25 --repeats 1 --workers 1" in done.stdout
