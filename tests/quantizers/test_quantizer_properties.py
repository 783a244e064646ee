"""Properties of the parts: nearest codes, draws and soft counts; autocast; bounded memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.quantizers.fitting import fitting_config
from vqnmt.evaluation.speed import peak_memory
from vqnmt.quantizers import build_quantizer, distances
from vqnmt.quantizers.distances import nearest_codes, row_maxima, score_blocks
from vqnmt.quantizers.vector_quantizers import draw, soft_counts

NAMES = ["gradient", "ema", "hard_em", "soft_em"]
SIZES = {
    "count": st.integers(0, 40),
    "size": st.integers(1, 70),
    "dim": st.integers(1, 9),
    "rows": st.integers(1, 12),
    "seed": st.integers(0, 1000),
}


@settings(max_examples=100)
@given(**SIZES)
def test_scores_and_nearest_codes_in_blocks_of_any_size(count, size, dim, rows, seed):
    torch.manual_seed(seed)
    z, e = torch.randn(count, dim), torch.randn(size, dim)
    x, y = z.double().numpy(), e.double().numpy()
    exact = ((x[:, None] - y[None]) ** 2).sum(2)  # (N, K)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "_CPU_ROWS", rows)
        patch.setattr(distances, "_CPU_ELEMENTS", 1)
        found = torch.zeros(count, size)
        for block, scores in score_blocks(z, e):
            assert scores.shape[0] <= rows
            found[block] = scores
        codes = nearest_codes(z, e).numpy()
    around = ((x - y.mean(0)) ** 2).sum(1)[:, None]
    np.testing.assert_allclose(around - found.numpy(), exact, atol=1e-4)
    # Where two codes are equally near, to rounding, either is right.
    chosen = exact[np.arange(count), codes]
    assert (chosen <= exact.min(1, initial=np.inf) + 1e-4).all()


@settings(max_examples=100)
@given(
    count=st.integers(0, 12),
    size=st.integers(1, 400),
    values=st.sampled_from([2, 1 << 20]),  # of two values there are many equal ones
    seed=st.integers(0, 1000),
)
def test_maxima_of_rows_and_their_places(count, size, values, seed):
    random = np.random.default_rng(seed)
    scores = random.integers(values, size=(count, size)).astype(np.float32)
    highest, places = (x.numpy() for x in row_maxima(torch.from_numpy(scores)))
    np.testing.assert_array_equal(highest, scores.max(1, initial=-np.inf))
    np.testing.assert_array_equal(scores[np.arange(count), places], highest)


@settings(max_examples=60)
@given(
    count=st.integers(0, 12),
    size=st.integers(1, 300),
    draws=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_codes_without_mass_are_never_drawn(count, size, draws, seed):
    torch.manual_seed(seed)
    weights = torch.rand(count, size) * (torch.rand(count, size) < 0.1)
    weights[:, seed % size] = 1e-3
    drawn = draw(weights.clone(), draws)
    assert drawn.shape == (count, draws) and drawn.dtype == torch.int32
    assert (weights.gather(1, drawn) > 0).all()


@pytest.mark.parametrize("point", [0.0, 1 - 2**-24])
def test_the_ends_of_the_unit_interval_draw_codes_with_mass(monkeypatch, point):
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, point))
    weights = torch.zeros(3, 16)
    weights[0, 5] = 0.3  # one code alone
    weights[1, 4:13] = torch.tensor([0, 1, 1e-30, 0, 0.7, 1e-45, 0.7, 0, 0])
    weights[2] = 1.0
    drawn = draw(weights.clone(), 2)
    assert (weights.gather(1, drawn) > 0).all()


@pytest.mark.parametrize("size", [3, 16, 37])
def test_draws_follow_the_weights(size):
    """Pearson's chi-square; and the draws at one position are independent of each other."""
    torch.manual_seed(1)
    count = 200_000
    weights = torch.rand(size) ** 3
    drawn = draw(weights.repeat(count, 1), 2)
    p = (weights / weights.sum()).double()
    expected = p[p > 0] * count
    for column in range(2):
        found = torch.bincount(drawn[:, column], minlength=len(p))[p > 0]
        # mean K - 1, variance 2 (K - 1)
        chi = ((found - expected) ** 2 / expected).sum().item()
        assert chi < (size - 1) + 5 * (2 * (size - 1)) ** 0.5
    equal = (drawn[:, 0] == drawn[:, 1]).double().mean().item()
    assert equal == pytest.approx((p**2).sum().item(), abs=0.006)


@settings(max_examples=60)
@given(draws=st.integers(1, 12), **{key: SIZES[key] for key in ("count", "size", "dim", "seed")})
def test_soft_counts_add_up(count, size, dim, draws, seed):
    torch.manual_seed(seed)
    z, samples = torch.randn(count, dim).double(), torch.randint(size, (count, draws))
    hits, sums = soft_counts(z, samples, size)
    one_hot = np.eye(size)[samples.numpy()].mean(1)  # (N, K)
    np.testing.assert_allclose(hits.numpy(), one_hot.sum(0), atol=1e-12)
    np.testing.assert_allclose(sums.numpy(), one_hot.T @ z.numpy(), atol=1e-12)
    assert hits.sum().item() == pytest.approx(count)


def test_soft_counts_of_codes_beyond_16_bits():
    samples = torch.tensor([[0, 40_000], [69_999, 40_000]])
    hits, sums = soft_counts(torch.tensor([[1.0], [3.0]]), samples, 70_000)
    assert hits[[0, 40_000, 69_999]].tolist() == [0.5, 1.0, 0.5]
    assert sums[[0, 40_000, 69_999]].flatten().tolist() == [0.5, 2.0, 1.5]
    assert hits.sum() == 2 and sums.sum() == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_codebook_under_autocast_is_that_of_fp32(name, dtype):
    """Both dtypes of autocast: codes, losses, gradients and the codebook after the step."""
    states = []
    for cast in (True, False):
        torch.manual_seed(0)
        config = fitting_config(name=name, codebook_size=12, initialisation="normal")
        quantizer = build_quantizer(config, 6)
        torch.manual_seed(1)
        z = torch.randn(40, 6).to(dtype)
        z = (z if cast else z.float()).requires_grad_()
        with torch.autocast("cpu", dtype=dtype, enabled=cast):
            out = quantizer(z)
        sum(out.losses.values()).backward()
        quantizer.step()
        states.append([out.codes, out.samples, *out.losses.values(), z.grad.to(dtype)])
        states[-1] += quantizer.state_dict().values()
    for left, right in zip(*states, strict=True):
        assert torch.equal(left, right)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ema", "soft_em"])
def test_memory_is_bounded_at_65536_codes(name):
    """All of N x K would be 1 GiB, and N x K x d 4 GiB."""
    count, size, dim = 4096, 1 << 16, 4
    config = fitting_config(
        name=name, codebook_size=size, initialisation="normal", distance_scale="none"
    )
    z = torch.randn(count, dim, requires_grad=True)
    quantizer = build_quantizer(config, dim)

    def step() -> None:
        out = quantizer(z)
        (out.quantized.sum() + sum(out.losses.values())).backward()
        quantizer.step()

    assert peak_memory(step) < 4 * count * size / 4
