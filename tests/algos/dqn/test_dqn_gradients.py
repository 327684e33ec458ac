"""Gradients of Q-learning: manual against autograd, both against finite differences, bfloat16 against float32."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import IMAGE, VECTOR, random_parameters

from ablate.algos.dqn.batch_buffers import QMetrics
from ablate.algos.dqn.gradients import Q_BACKENDS, QComputer, QSettings
from ablate.nn import layers
from ablate.nn.convolutions import Convolution
from ablate.nn.precision import resolve_precision
from ablate.nn.q_architecture import QArchitecture
from ablate.types import Batch

torch.set_num_threads(1)  # as learners do
NATURE = QArchitecture(
    (4, 84, 84), (Convolution(32, 8, 4, 0, False), Convolution(64, 4, 2, 0, False), Convolution(64, 3, 1, 0, False)),
    False, (512,), "relu", 4, False, 1 / 255,
)  # fmt: skip
PLAIN = QSettings(double=False, loss="smooth_l1", max_grad_value=None)
B = 6


def make_computer(
    architecture: QArchitecture,
    settings: QSettings = PLAIN,
    backend: str = "manual",
    precision: str = "float32",
    dtype: torch.dtype = torch.float64,
    batch_size: int = B,
    theta: np.ndarray | None = None,
) -> QComputer:
    """A computer whose target network has other parameters."""
    theta = random_parameters(architecture, 0) if theta is None else theta
    computer = Q_BACKENDS[backend](architecture, batch_size, settings, torch.tensor(theta, dtype=dtype), precision)
    computer.set_target(random_parameters(architecture, 1))
    return computer


def random_batch(architecture: QArchitecture, seed: int = 2, size: int = B) -> tuple[Batch, np.ndarray]:
    """Transitions of up to three steps, and observations (2, B, *input_shape) as environments give them."""
    rng = np.random.default_rng(seed)
    shape = (2, size, *architecture.input_shape)
    observations = rng.integers(0, 256, shape, np.uint8) if architecture.scale != 1 else rng.standard_normal(shape)
    discounts = rng.choice([0.0, 0.99, 0.99**2, 0.99**3], size).astype(np.float32)
    slots = np.zeros((size, 1), np.int64)
    numbers = [
        rng.standard_normal(size).astype(np.float32) * 2,
        discounts,
        rng.uniform(0.1, 1, size).astype(np.float32),
    ]
    return Batch(slots, slots, rng.integers(architecture.actions, size=size), *numbers), observations


def fill(computer: QComputer, observations: np.ndarray) -> None:
    """Write the observations as a replay does: each pixel through the table."""
    for buffer, values in zip((computer.observations, computer.next_observations), observations, strict=True):
        last = np.moveaxis(values, 1, -1)
        buffer[...] = last if computer.table is None else computer.table[last]


def computed(computer: QComputer, batch: Batch) -> tuple[float, QMetrics]:
    metrics = computer.compute(batch).metrics()
    return metrics.loss, metrics


CASES = [
    (IMAGE, {}), (IMAGE, {"conv_bias": True}), (IMAGE, {"dueling": True, "conv_bias": True}),
    (IMAGE, {"hidden": ()}), (IMAGE, {"hidden": (8, 6), "dueling": True}), (IMAGE, {"convolutions": ()}),
    (IMAGE, {"activation": "elu"}), (IMAGE, {"activation": "tanh"}), (IMAGE, {"activation": "relu6"}),
    (IMAGE, {"scale": 1.0}), (VECTOR, {}), (VECTOR, {"dueling": True}), (VECTOR, {"hidden": (), "activation": "elu"}),
]  # fmt: skip


@pytest.mark.parametrize(("base", "changes"), CASES, ids=lambda case: str(case) if isinstance(case, dict) else "")
@pytest.mark.parametrize(("double", "loss"), list(product([False, True], ["smooth_l1", "squared"])))
def test_manual_agrees_with_autograd(base: QArchitecture, changes: dict[str, object], double: bool, loss: str) -> None:
    architecture = replace(base, **changes)  # type: ignore[arg-type]
    both = [make_computer(architecture, QSettings(double, loss, None), name) for name in ("autograd", "manual")]
    for seed in (2, 3):  # the second gradient must not contain the first
        batch, observations = random_batch(architecture, seed)
        for computer in both:
            fill(computer, observations)
        (loss_a, metrics_a), (loss_m, metrics_m) = (computed(computer, batch) for computer in both)
        assert loss_m == pytest.approx(loss_a, rel=1e-10)
        assert metrics_m.q_mean == pytest.approx(metrics_a.q_mean, rel=1e-10)
        np.testing.assert_allclose(metrics_m.td_errors, metrics_a.td_errors, rtol=1e-9)
        expected, actual = (architecture.layout().views(computer.gradient) for computer in both)
        for name, d in actual.items():
            assert expected[name].abs().max() > 0, name
            torch.testing.assert_close(d, expected[name], rtol=1e-8, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


# ----------------------------------------------------------------------------- the equations


def q_of(architecture: QArchitecture, theta: np.ndarray, observation: np.ndarray) -> list[float]:
    """Q(s, ·) of one observation, in numpy, window by window."""
    p = architecture.layout().views(theta)
    act = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh}[architecture.activation]
    x = observation * architecture.scale
    for i, layer in enumerate(architecture.convolutions):
        x = np.pad(x, ((0, 0), (layer.padding,) * 2, (layer.padding,) * 2))
        height, width = ((side - layer.kernel) // layer.stride + 1 for side in x.shape[1:])
        y = np.zeros((layer.channels, height, width))
        for u, v in product(range(height), range(width)):
            at = [slice(w * layer.stride, w * layer.stride + layer.kernel) for w in (u, v)]
            y[:, u, v] = (p[f"conv.{i}.weight"] * x[:, at[0], at[1]]).sum((1, 2, 3)) + p.get(f"conv.{i}.bias", 0.0)
        x = act(y)
    x = x.transpose(1, 2, 0).reshape(-1) if x.ndim == 3 else x
    for i in range(len(architecture.hidden)):
        x = act(p[f"hidden.{i}.weight"] @ x + p[f"hidden.{i}.bias"])
    if not architecture.dueling:
        return list(p["q.weight"] @ x + p["q.bias"])
    v_stream, a_stream = x[: len(x) // 2], x[len(x) // 2 :]
    advantage = p["advantage.weight"] @ a_stream + p["advantage.bias"]
    return list(p["value.weight"] @ v_stream + p["value.bias"] + advantage - advantage.mean())


def loss_of(architecture: QArchitecture, theta: np.ndarray, double: bool, batch: Batch, obs: np.ndarray) -> float:
    total = 0.0
    for b in range(B):
        q = q_of(architecture, theta, obs[0, b])
        next_target = q_of(architecture, random_parameters(architecture, 1), obs[1, b])
        chooser = q_of(architecture, theta, obs[1, b]) if double else next_target
        delta = batch.returns[b] + batch.discounts[b] * next_target[int(np.argmax(chooser))] - q[batch.actions[b]]
        total += batch.weights[b] * (delta**2 / 2 if abs(delta) < 1 else abs(delta) - 0.5) / B
    return total


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(
    "architecture",
    [replace(IMAGE, conv_bias=True, activation="tanh", dueling=True), replace(VECTOR, activation="tanh")],
)
def test_the_gradient_equals_finite_differences_of_the_equations(architecture: QArchitecture, double: bool) -> None:
    theta = random_parameters(architecture, 0)
    batch, observations = random_batch(architecture)
    for backend in Q_BACKENDS:
        computer = make_computer(architecture, replace(PLAIN, double=double), backend)
        fill(computer, observations)
        loss, metrics = computed(computer, batch)
        assert (
            loss == metrics.loss == pytest.approx(loss_of(architecture, theta, double, batch, observations), rel=1e-9)
        )
        best = [max(q_of(architecture, theta, x)) for x in observations[0]]
        assert metrics.q_mean == pytest.approx(np.mean(best), rel=1e-9)
        layout = architecture.layout()
        for name, start in layout.starts.items():  # one element of each parameter, by central differences
            k, h = start + int(np.prod(layout.shapes[name])) // 2, 1e-5
            sides = []
            for sign in (1, -1):
                moved = theta.copy()
                moved[k] += sign * h
                sides.append(loss_of(architecture, moved, double, batch, observations))
            assert computer.gradient[k].item() == pytest.approx((sides[0] - sides[1]) / (2 * h), rel=1e-5, abs=1e-9), (
                name
            )


# ------------------------------------------------------------------------ what a learner needs


@pytest.mark.parametrize("backend", Q_BACKENDS)
def test_it_computes_with_the_callers_parameters(backend: str) -> None:
    theta = torch.from_numpy(random_parameters(IMAGE, 0))
    computer = Q_BACKENDS[backend](IMAGE, B, PLAIN, theta)
    assert computer.parameters is theta
    batch, observations = random_batch(IMAGE)
    fill(computer, observations)
    before, _ = computed(computer, batch)
    for _ in range(30):
        computer.compute(batch)
        theta.sub_(computer.gradient, alpha=0.05)
    after, _ = computed(computer, batch)
    assert after < 0.5 * before


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("backend", Q_BACKENDS)
def test_the_target_changes_only_on_request(backend: str, precision: str) -> None:
    computer = make_computer(IMAGE, backend=backend, precision=precision, dtype=torch.float32)
    batch, observations = random_batch(IMAGE)
    fill(computer, observations)
    old = computer.target.clone()
    first, _ = computed(computer, batch)
    computer.parameters.mul_(0.5)
    torch.testing.assert_close(computer.target, old, rtol=0, atol=0)
    other, _ = computed(computer, batch)
    computer.parameters.mul_(2.0)
    again, _ = computed(computer, batch)
    assert again == first != other

    computer.update_target(0.25)
    torch.testing.assert_close(computer.target, 0.75 * old + 0.25 * computer.parameters)
    softly, _ = computed(computer, batch)
    computer.update_target()
    torch.testing.assert_close(computer.target, computer.parameters, rtol=0, atol=0)
    copied, _ = computed(computer, batch)
    assert len({first, softly, copied}) == 3


@pytest.mark.parametrize("backend", Q_BACKENDS)
def test_gradient_values_are_clamped(backend: str) -> None:
    batch, observations = random_batch(IMAGE)
    free, clamped = (make_computer(IMAGE, replace(PLAIN, max_grad_value=v), backend) for v in (None, 0.01))
    for computer in (free, clamped):
        fill(computer, observations)
        computer.compute(batch)
    assert free.gradient.abs().max() > 0.01
    torch.testing.assert_close(clamped.gradient, free.gradient.clamp(-0.01, 0.01), rtol=0, atol=0)


def test_a_batch_of_another_size_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"\(5, 6\)"):
        make_computer(VECTOR).compute(random_batch(VECTOR, size=5)[0])


# --------------------------------------------------------------------------------------- precision


def test_the_table_gives_the_same_input_as_a_naive_conversion() -> None:
    _, observations = random_batch(NATURE, size=2)
    for dtype in (torch.float32, torch.float64):
        computer = make_computer(NATURE, dtype=dtype, batch_size=2)
        fill(computer, observations)
        naive = torch.from_numpy(observations[1]).to(dtype) / 255
        torch.testing.assert_close(computer._network_input()[2:], naive)
        assert computer._network_input().is_contiguous(memory_format=torch.channels_last)
        assert computer._network_input().data_ptr() == computer.observations.ctypes.data  # no copy
    computer = make_computer(NATURE, precision="bf16", dtype=torch.float32, batch_size=2)
    assert computer.observations.dtype == computer.table.dtype == np.uint16  # type: ignore[union-attr]
    fill(computer, observations)
    exact = torch.from_numpy(observations[0]).to(torch.bfloat16)  # bytes, which bfloat16 holds exactly
    torch.testing.assert_close(computer._network_input()[:2], exact, rtol=0, atol=0)
    assert make_computer(replace(IMAGE, scale=1.0)).table is None
    assert make_computer(VECTOR).observations.shape == (B, 5)


def cosines(architecture: QArchitecture, one: QComputer, other: QComputer) -> dict[str, float]:
    views = (architecture.layout().views(computer.gradient) for computer in (one, other))
    return {
        name: F.cosine_similarity(d.double().flatten(), e.double().flatten(), 0).item()
        for (name, d), e in zip(next(views).items(), next(views).values(), strict=True)
    }


@pytest.mark.parametrize("backend", Q_BACKENDS)
@pytest.mark.parametrize("changes", [{}, {"dueling": True, "conv_bias": True}])
def test_bfloat16_agrees_with_float32_up_to_rounding(backend: str, changes: dict[str, object]) -> None:
    architecture = replace(NATURE, **changes)  # type: ignore[arg-type]
    batch, observations = random_batch(architecture, size=32)
    theta = np.zeros(architecture.layout().size)
    architecture.initialise(theta, np.random.default_rng(0))
    settings = replace(PLAIN, double=True)
    exact, rounded = (
        make_computer(architecture, settings, backend, precision, torch.float32, 32, theta)
        for precision in ("float32", "bf16")
    )
    for computer in (exact, rounded):
        fill(computer, observations)
    (loss, metrics), (rounded_loss, rounded_metrics) = (computed(computer, batch) for computer in (exact, rounded))
    assert rounded.gradient.dtype == torch.float32
    assert loss != rounded_loss == pytest.approx(loss, rel=0.02)
    np.testing.assert_allclose(rounded_metrics.td_errors, metrics.td_errors, atol=0.15)  # of values of up to 8
    similarities = cosines(architecture, exact, rounded)
    assert min(similarities.values()) > 0.99, similarities


@pytest.mark.parametrize("as_float32", [True, False])
def test_both_backends_agree_in_bfloat16(as_float32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the processor has no bfloat16, which the backend by hand then multiplies in float32."""
    monkeypatch.setattr(layers, "BF16_AS_FLOAT32", as_float32)
    batch, observations = random_batch(NATURE, size=32)
    both = [make_computer(NATURE, PLAIN, name, "bf16", torch.float32, 32) for name in Q_BACKENDS]
    for computer in both:
        fill(computer, observations)
    (loss_a, _), (loss_m, _) = (computed(computer, batch) for computer in both)
    assert loss_m == pytest.approx(loss_a, rel=0.01)
    assert min(cosines(NATURE, *both).values()) > 0.995


def test_a_network_for_vectors_is_never_rounded() -> None:
    batch, observations = random_batch(VECTOR)
    exact, same = (make_computer(VECTOR, precision=p, dtype=torch.float32) for p in ("float32", "bf16"))
    for computer in (exact, same):
        fill(computer, observations)
        computer.compute(batch)
    torch.testing.assert_close(same.gradient, exact.gradient, rtol=0, atol=0)


def test_auto_precision_is_what_the_processor_supports() -> None:
    with open("/proc/cpuinfo") as file:
        flags = file.read()
    has = "avx512_bf16" in flags or "amx_bf16" in flags
    assert resolve_precision("auto") == ("bf16" if has else "float32")
    assert resolve_precision("float32") == "float32"
    assert resolve_precision("bf16") == "bf16"


class NoEvent:
    """torch.cuda.Event without a GPU: there is nothing to wait for."""

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("backend", Q_BACKENDS)
def test_two_batches_are_copied_to_a_gpu_and_their_metrics_back(
    backend: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copies to a device and back, with the CPU in the role of the device. Bytes are copied, not floats."""
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, pin_memory=False, **options: zeros(*shape, **options))
    monkeypatch.setattr(torch.cuda, "Event", NoEvent)

    class OnGpu(Q_BACKENDS[backend]):  # type: ignore[misc]
        def _allocate(self, buffers: int) -> None:
            self._on_gpu = True
            super()._allocate(buffers)

    settings = replace(PLAIN, double=True, max_grad_value=0.01)
    theta = torch.tensor(random_parameters(NATURE, 0), dtype=torch.float32)
    here = Q_BACKENDS[backend](NATURE, B, settings, theta.clone(), precision)
    there = OnGpu(NATURE, B, settings, theta.clone(), precision, buffers=2)
    assert there.observations.dtype == np.uint8
    expected, under_way = [], []
    for seed in range(4):
        batch, observations = random_batch(NATURE, seed)
        for computer in (here, there):
            fill(computer, observations)
        expected.append(here.compute(batch).metrics())
        under_way.append(there.compute(batch))
        torch.testing.assert_close(there.gradient, here.gradient, rtol=1e-3, atol=1e-5)
        if seed:
            actual = under_way[seed - 1].metrics()  # while the next batch is copied
            np.testing.assert_allclose(actual.td_errors, expected[seed - 1].td_errors, atol=1e-3)
            assert actual[1:] == pytest.approx(expected[seed - 1][1:], rel=1e-3)
            assert actual.loss != expected[seed].loss


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("precision", "cosine"), [("float32", 0.9999), ("bf16", 0.99)])
@pytest.mark.parametrize("backend", Q_BACKENDS)
def test_the_gradient_on_a_gpu_is_nearly_the_same(backend: str, precision: str, cosine: float) -> None:
    batch, observations = random_batch(NATURE, size=32)
    on_cpu = make_computer(NATURE, PLAIN, backend, "float32", torch.float32, 32)
    theta = on_cpu.parameters.cuda()
    on_gpu = Q_BACKENDS[backend](NATURE, 32, PLAIN, theta, precision)
    on_gpu.set_target(on_cpu.target.numpy())
    assert on_gpu.observations.dtype == np.uint8
    for computer in (on_cpu, on_gpu):
        fill(computer, observations)
    (loss, _), (gpu_loss, _) = (computed(computer, batch) for computer in (on_cpu, on_gpu))
    assert gpu_loss == pytest.approx(loss, rel=0.02)
    on_gpu.gradient = on_gpu.gradient.cpu()
    assert min(cosines(NATURE, on_cpu, on_gpu).values()) > cosine


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("backend", Q_BACKENDS)
def test_recorded_work_uses_the_current_parameters_target_and_batch(backend: str, precision: str) -> None:
    theta = torch.tensor(random_parameters(NATURE, 0), dtype=torch.float32, device="cuda")
    settings = QSettings(double=True, loss="smooth_l1", max_grad_value=1.0)
    both = [
        Q_BACKENDS[backend](NATURE, 32, settings, theta.clone(), precision, buffers=2, recorded=recorded)
        for recorded in (False, True)
    ]
    for seed in range(5):
        batch, observations = random_batch(NATURE, seed, size=32)
        for computer in both:
            fill(computer, observations)
            computer.parameters.mul_(1.0 + 0.01 * seed)
            if seed == 3:
                computer.update_target()
        (loss, metrics), (recorded_loss, recorded_metrics) = (computed(computer, batch) for computer in both)
        assert recorded_loss == pytest.approx(loss, rel=1e-3)
        np.testing.assert_allclose(recorded_metrics.td_errors, metrics.td_errors, atol=1e-2)
        assert min(cosines(NATURE, *both).values()) > 0.999
