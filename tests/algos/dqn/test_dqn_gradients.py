"""Gradients of Q-learning: by hand against autograd, autograd against finite differences, bfloat16 against float32."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ablate.algos.dqn.batch_buffers import QMetrics
from ablate.algos.dqn.gradients import Q_BACKENDS, QComputer, QSettings
from ablate.nn.convolutions import Convolution
from ablate.nn.precision import resolve_precision
from ablate.nn.q_architecture import QArchitecture
from ablate.types import Batch

torch.set_num_threads(1)  # as learners do; two wait for each other wherever anything else runs
VECTOR = QArchitecture((5,), (), False, (9, 7), "relu", 4, False, 1.0)
IMAGE = QArchitecture(
    input_shape=(3, 13, 12),
    convolutions=(Convolution(6, 4, 2, 0, False), Convolution(5, 3, 1, 1, False)),
    conv_bias=False, hidden=(10,), activation="relu", actions=4, dueling=False, scale=1 / 255,
)  # fmt: skip
NATURE = QArchitecture(
    (4, 84, 84), (Convolution(32, 8, 4, 0, False), Convolution(64, 4, 2, 0, False), Convolution(64, 3, 1, 0, False)),
    False, (512,), "relu", 4, False, 1 / 255,
)  # fmt: skip
PLAIN = QSettings(double=False, loss="smooth_l1", max_grad_value=None)
B = 6


def random_parameters(architecture: QArchitecture, seed: int) -> np.ndarray:
    """Every one of them different from 0, float64."""
    rng = np.random.default_rng(seed)
    flat = np.zeros(architecture.layout().size)
    architecture.initialise(flat, rng)
    return flat + 0.05 * rng.standard_normal(flat.size)


def computer(
    architecture: QArchitecture,
    settings: QSettings = PLAIN,
    backend: str = "manual",
    precision: str = "float32",
    dtype: torch.dtype = torch.float64,
    batch_size: int = B,
    theta: np.ndarray | None = None,
) -> QComputer:
    """One with a target network of its own."""
    theta = random_parameters(architecture, 0) if theta is None else theta
    made = Q_BACKENDS[backend](architecture, batch_size, settings, torch.tensor(theta, dtype=dtype), precision)
    made.set_target(random_parameters(architecture, 1))
    return made


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


def fill(made: QComputer, observations: np.ndarray) -> None:
    """What a store does, pixel by pixel through the table."""
    for buffer, values in zip((made.observations, made.next_observations), observations, strict=True):
        last = np.moveaxis(values, 1, -1)
        buffer[...] = last if made.table is None else made.table[last]


def computed(made: QComputer, batch: Batch) -> tuple[float, QMetrics]:
    told = made.compute(batch).metrics()
    return told.loss, told


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
    both = [computer(architecture, QSettings(double, loss, None), name) for name in ("autograd", "manual")]
    for seed in (2, 3):  # the second batch's gradient holds nothing of the first's
        batch, observations = random_batch(architecture, seed)
        for made in both:
            fill(made, observations)
        (loss_a, told_a), (loss_m, told_m) = (computed(made, batch) for made in both)
        assert loss_m == pytest.approx(loss_a, rel=1e-10)
        assert told_m.q_mean == pytest.approx(told_a.q_mean, rel=1e-10)
        np.testing.assert_allclose(told_m.td_errors, told_a.td_errors, rtol=1e-9)
        expected, found = (architecture.layout().views(made.gradient) for made in both)
        for name, d in found.items():
            assert expected[name].abs().max() > 0, name
            torch.testing.assert_close(d, expected[name], rtol=1e-8, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


# ------------------------------------------------------------------ the same from the equations


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
def test_the_gradient_is_that_of_the_equations(architecture: QArchitecture, double: bool) -> None:
    theta = random_parameters(architecture, 0)
    batch, observations = random_batch(architecture)
    for backend in Q_BACKENDS:
        made = computer(architecture, replace(PLAIN, double=double), backend)
        fill(made, observations)
        loss, told = computed(made, batch)
        assert loss == told.loss == pytest.approx(loss_of(architecture, theta, double, batch, observations), rel=1e-9)
        best = [max(q_of(architecture, theta, x)) for x in observations[0]]
        assert told.q_mean == pytest.approx(np.mean(best), rel=1e-9)
        layout = architecture.layout()
        for name, start in layout.starts.items():  # one parameter of each by central differences
            k, h = start + int(np.prod(layout.shapes[name])) // 2, 1e-5
            sides = []
            for sign in (1, -1):
                moved = theta.copy()
                moved[k] += sign * h
                sides.append(loss_of(architecture, moved, double, batch, observations))
            assert made.gradient[k].item() == pytest.approx((sides[0] - sides[1]) / (2 * h), rel=1e-5, abs=1e-9), name


# ------------------------------------------------------------------------------ what a learner relies on


@pytest.mark.parametrize("backend", Q_BACKENDS)
def test_it_computes_on_the_vector_that_was_handed_in(backend: str) -> None:
    theta = torch.from_numpy(random_parameters(IMAGE, 0))
    made = Q_BACKENDS[backend](IMAGE, B, PLAIN, theta)
    assert made.parameters is theta
    batch, observations = random_batch(IMAGE)
    fill(made, observations)
    before, _ = computed(made, batch)
    for _ in range(30):
        made.compute(batch)
        theta.sub_(made.gradient, alpha=0.05)
    after, _ = computed(made, batch)
    assert after < 0.5 * before


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("backend", Q_BACKENDS)
def test_the_target_changes_only_when_told(backend: str, precision: str) -> None:
    made = computer(IMAGE, backend=backend, precision=precision, dtype=torch.float32)
    batch, observations = random_batch(IMAGE)
    fill(made, observations)
    old = made.target.clone()
    first, _ = computed(made, batch)
    made.parameters.mul_(0.5)
    torch.testing.assert_close(made.target, old, rtol=0, atol=0)
    other, _ = computed(made, batch)
    made.parameters.mul_(2.0)
    again, _ = computed(made, batch)
    assert again == first != other

    made.update_target(0.25)
    torch.testing.assert_close(made.target, 0.75 * old + 0.25 * made.parameters)
    softly, _ = computed(made, batch)
    made.update_target()
    torch.testing.assert_close(made.target, made.parameters, rtol=0, atol=0)
    copied, _ = computed(made, batch)
    assert len({first, softly, copied}) == 3


@pytest.mark.parametrize("backend", Q_BACKENDS)
def test_gradient_values_are_clamped(backend: str) -> None:
    batch, observations = random_batch(IMAGE)
    free, clamped = (computer(IMAGE, replace(PLAIN, max_grad_value=v), backend) for v in (None, 0.01))
    for made in (free, clamped):
        fill(made, observations)
        made.compute(batch)
    assert free.gradient.abs().max() > 0.01
    torch.testing.assert_close(clamped.gradient, free.gradient.clamp(-0.01, 0.01), rtol=0, atol=0)


def test_a_batch_of_another_size_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"\(5, 6\)"):
        computer(VECTOR).compute(random_batch(VECTOR, size=5)[0])


# --------------------------------------------------------------------------------------- precision


def test_the_table_is_the_input_that_a_naive_conversion_makes() -> None:
    _, observations = random_batch(NATURE, size=2)
    for dtype in (torch.float32, torch.float64):
        made = computer(NATURE, dtype=dtype, batch_size=2)
        fill(made, observations)
        naive = torch.from_numpy(observations[1]).to(dtype) / 255
        torch.testing.assert_close(made._network_input()[2:], naive)
        assert made._network_input().is_contiguous(memory_format=torch.channels_last)
        assert made._network_input().data_ptr() == made.observations.ctypes.data  # no copy
    made = computer(NATURE, precision="bf16", dtype=torch.float32, batch_size=2)
    assert made.observations.dtype == made.table.dtype == np.uint16  # type: ignore[union-attr]
    fill(made, observations)
    exact = torch.from_numpy(observations[0]).to(torch.bfloat16)  # bytes, which bfloat16 holds exactly
    torch.testing.assert_close(made._network_input()[:2], exact, rtol=0, atol=0)
    assert computer(replace(IMAGE, scale=1.0)).table is None
    assert computer(VECTOR).observations.shape == (B, 5)


def cosines(architecture: QArchitecture, one: QComputer, other: QComputer) -> dict[str, float]:
    views = (architecture.layout().views(made.gradient) for made in (one, other))
    return {
        name: F.cosine_similarity(d.double().flatten(), e.double().flatten(), 0).item()
        for (name, d), e in zip(next(views).items(), next(views).values(), strict=True)
    }


@pytest.mark.parametrize("backend", Q_BACKENDS)
@pytest.mark.parametrize("changes", [{}, {"dueling": True, "conv_bias": True}])
def test_bfloat16_is_float32_rounded(backend: str, changes: dict[str, object]) -> None:
    architecture = replace(NATURE, **changes)  # type: ignore[arg-type]
    batch, observations = random_batch(architecture, size=32)
    theta = np.zeros(architecture.layout().size)
    architecture.initialise(theta, np.random.default_rng(0))
    settings = replace(PLAIN, double=True)
    exact, rounded = (
        computer(architecture, settings, backend, precision, torch.float32, 32, theta)
        for precision in ("float32", "bf16")
    )
    for made in (exact, rounded):
        fill(made, observations)
    (loss, told), (rounded_loss, rounded_told) = (computed(made, batch) for made in (exact, rounded))
    assert rounded.gradient.dtype == torch.float32
    assert loss != rounded_loss == pytest.approx(loss, rel=0.02)
    np.testing.assert_allclose(rounded_told.td_errors, told.td_errors, atol=0.15)  # of values of up to 8
    found = cosines(architecture, exact, rounded)
    assert min(found.values()) > 0.99, found


def test_bfloat16_by_hand_and_by_autograd_are_one_network() -> None:
    batch, observations = random_batch(NATURE, size=32)
    both = [computer(NATURE, PLAIN, name, "bf16", torch.float32, 32) for name in Q_BACKENDS]
    for made in both:
        fill(made, observations)
    (loss_a, _), (loss_m, _) = (computed(made, batch) for made in both)
    assert loss_m == pytest.approx(loss_a, rel=0.01)
    assert min(cosines(NATURE, *both).values()) > 0.995


def test_a_vectors_network_is_never_rounded() -> None:
    batch, observations = random_batch(VECTOR)
    exact, same = (computer(VECTOR, precision=p, dtype=torch.float32) for p in ("float32", "bf16"))
    for made in (exact, same):
        fill(made, observations)
        made.compute(batch)
    torch.testing.assert_close(same.gradient, exact.gradient, rtol=0, atol=0)


def test_precision_is_what_the_processor_has() -> None:
    with open("/proc/cpuinfo") as file:
        flags = file.read()
    has = "avx512_bf16" in flags or "amx_bf16" in flags
    assert resolve_precision("auto") == ("bf16" if has else "float32")
    assert resolve_precision("float32") == "float32"
    assert resolve_precision("bf16") == "bf16"


class NoEvent:
    """torch.cuda.Event where there is no GPU: what it waits for is done."""

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("backend", Q_BACKENDS)
def test_batches_find_their_way_to_a_gpu_and_back(
    backend: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copies to a device and from it, where the device is the processor: bytes go, two batches are on their way."""
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
        for made in (here, there):
            fill(made, observations)
        expected.append(here.compute(batch).metrics())
        under_way.append(there.compute(batch))
        torch.testing.assert_close(there.gradient, here.gradient, rtol=1e-3, atol=1e-5)
        if seed:
            found = under_way[seed - 1].metrics()  # while the next is on its way
            np.testing.assert_allclose(found.td_errors, expected[seed - 1].td_errors, atol=1e-3)
            assert found[1:] == pytest.approx(expected[seed - 1][1:], rel=1e-3)
            assert found.loss != expected[seed].loss


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("precision", "cosine"), [("float32", 0.9999), ("bf16", 0.99)])
@pytest.mark.parametrize("backend", Q_BACKENDS)
def test_on_a_gpu(backend: str, precision: str, cosine: float) -> None:
    batch, observations = random_batch(NATURE, size=32)
    on_cpu = computer(NATURE, PLAIN, backend, "float32", torch.float32, 32)
    theta = on_cpu.parameters.cuda()
    on_gpu = Q_BACKENDS[backend](NATURE, 32, PLAIN, theta, precision)
    on_gpu.set_target(on_cpu.target.numpy())
    assert on_gpu.observations.dtype == np.uint8
    for made in (on_cpu, on_gpu):
        fill(made, observations)
    (loss, _), (gpu_loss, _) = (computed(made, batch) for made in (on_cpu, on_gpu))
    assert gpu_loss == pytest.approx(loss, rel=0.02)
    on_gpu.gradient = on_gpu.gradient.cpu()
    assert min(cosines(NATURE, on_cpu, on_gpu).values()) > cosine


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("backend", Q_BACKENDS)
def test_recorded_work_follows_the_parameters_the_target_and_the_batch(backend: str, precision: str) -> None:
    theta = torch.tensor(random_parameters(NATURE, 0), dtype=torch.float32, device="cuda")
    settings = QSettings(double=True, loss="smooth_l1", max_grad_value=1.0)
    both = [
        Q_BACKENDS[backend](NATURE, 32, settings, theta.clone(), precision, buffers=2, recorded=recorded)
        for recorded in (False, True)
    ]
    for seed in range(5):
        batch, observations = random_batch(NATURE, seed, size=32)
        for made in both:
            fill(made, observations)
            made.parameters.mul_(1.0 + 0.01 * seed)
            if seed == 3:
                made.update_target()
        (loss, told), (recorded_loss, recorded_told) = (computed(made, batch) for made in both)
        assert recorded_loss == pytest.approx(loss, rel=1e-3)
        np.testing.assert_allclose(recorded_told.td_errors, told.td_errors, atol=1e-2)
        assert min(cosines(NATURE, *both).values()) > 0.999
