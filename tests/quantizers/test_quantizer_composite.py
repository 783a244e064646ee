"""Product and residual quantizers against NumPy and against their parts alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.quantizers.fitting import fitting_config
from vqnmt.errors import VqnmtError
from vqnmt.quantizers import (
    ProductQuantizer,
    ResidualQuantizer,
    build_quantizer,
)

PARTS = ["gradient", "ema", "hard_em", "soft_em", "gumbel_softmax", "semhash"]

NAMES = ["product", "residual"]


def build(name: str, part: str = "ema", size: int = 16, dim: int = 6, **others):
    torch.manual_seed(0)
    defaults = {"initialisation": "normal", "restart_threshold": 0.0, "decay": 0.9}
    config = fitting_config(name=name, part=part, codebook_size=size, **(defaults | others))
    return build_quantizer(config, dim)


def codebooks(quantizer) -> list[np.ndarray]:
    return [part.codebook.vectors.detach().double().numpy().copy() for part in quantizer.parts]


def nearest(x: np.ndarray, e: np.ndarray) -> np.ndarray:
    return ((x[:, None] - e[None]) ** 2).sum(2).argmin(1)


def ema_step(e: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The first step of Roy et al. 2018 from counts of 1, decay 0.9, no smoothing."""
    one_hot = np.eye(len(e))[nearest(x, e)]
    counts = 0.9 + 0.1 * one_hot.sum(0)
    return (0.9 * e + 0.1 * one_hot.T @ x) / counts[:, None]


# --- product ---------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", ["none", "random", "learnt"])
def test_product_follows_its_equations(projection):
    quantizer = build("product", projection=projection, beta=0.4, epsilon=0.0)
    z = torch.randn(20, 6, requires_grad=True)
    weight = torch.randn(20, 6)
    out = quantizer(z)
    ((out.quantized * weight).sum() + out.losses["commitment"]).backward()
    left, right = codebooks(quantizer)
    x, matrix = z.detach().double().numpy(), np.eye(6)
    if projection != "none":
        matrix = quantizer.projection.weight.detach().double().numpy()
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(6), atol=1e-6)
        assert np.abs(matrix - np.eye(6)).max() > 0.1
    projected = x @ matrix.T
    first, second = nearest(projected[:, :3], left), nearest(projected[:, 3:], right)
    value = np.concatenate([left[first], right[second]], 1)
    np.testing.assert_array_equal(out.codes.numpy(), first + 4 * second)
    np.testing.assert_array_equal(quantizer.nearest(z).numpy(), first + 4 * second)
    np.testing.assert_allclose(out.quantized.detach().numpy(), value, atol=1e-6)
    error = np.mean((projected - value) ** 2)
    assert out.statistics["quantisation_error"].item() == pytest.approx(error, rel=1e-5)
    assert out.losses["commitment"].item() == pytest.approx(0.4 * error, rel=1e-5)
    # straight-through on the near side of the projection, and the commitment loss
    upstream = weight.numpy() + 0.4 * 2 * (projected - value) / value.size
    np.testing.assert_allclose(z.grad.numpy(), upstream @ matrix, atol=1e-5)
    if projection == "learnt":
        found = quantizer.projection.weight.grad.numpy()
        np.testing.assert_allclose(found, upstream.T @ x, atol=1e-4)
    else:
        assert not [p for p in quantizer.parameters() if p.requires_grad]
    quantizer.step()
    after = codebooks(quantizer)
    np.testing.assert_allclose(after[0], ema_step(left, projected[:, :3]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after[1], ema_step(right, projected[:, 3:]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", PARTS)
def test_a_product_is_its_parts_side_by_side(part):
    quantizer = build("product", part, dim=8)
    alone = build("product", part, dim=8).parts
    z = torch.randn(30, 8)
    torch.manual_seed(1)
    out = quantizer(z)
    torch.manual_seed(1)
    outs = [piece(z_part) for piece, z_part in zip(alone, z.split(4, dim=1), strict=True)]
    assert torch.equal(out.quantized, torch.cat([o.quantized for o in outs], 1))
    assert torch.equal(out.codes, outs[0].codes + 4 * outs[1].codes)
    assert torch.equal(out.samples, outs[0].samples + 4 * outs[1].samples)
    for key, value in out.losses.items():
        torch.testing.assert_close(value, (outs[0].losses[key] + outs[1].losses[key]) / 2)
    entropies = [o.statistics["posterior_entropy"] for o in outs]
    assert out.statistics["posterior_entropy"].item() == pytest.approx(sum(entropies).item())
    quantizer.step()
    for piece in alone:
        piece.step()
    for key, value in quantizer.parts.state_dict().items():
        assert torch.equal(value, alone.state_dict()[key]), key


def test_parts_that_do_not_divide_the_dimension():
    with pytest.raises(VqnmtError, match=r"quantizer\.parts is 4: it must divide 6"):
        build("product", parts=4)


# --- residual --------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["ema", "gradient"])
def test_residual_follows_its_equations(part):
    quantizer = build("residual", part, size=64, parts=3, beta=0.4, epsilon=0.0)
    z = torch.randn(20, 6, requires_grad=True)
    weight = torch.randn(20, 6)
    out = quantizer(z)
    ((out.quantized * weight).sum() + sum(out.losses.values())).backward()
    before = codebooks(quantizer)
    left = z.detach().double().numpy()
    inputs, digits, commitment, gradient = [], [], 0.0, weight.double().numpy()
    for stage, vectors in enumerate(before):
        inputs.append(left)
        digits.append(nearest(left, vectors))
        difference = left - vectors[digits[-1]]
        commitment += 0.4 * np.mean(difference**2)
        gradient = gradient + 0.4 * 2 * difference / left.size
        if part == "gradient":
            expected = np.zeros_like(vectors)
            np.add.at(expected, digits[-1], -2 * difference / left.size)
            found = quantizer.parts[stage].codebook.vectors.grad
            np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
        left = difference
    code = digits[0] + 4 * digits[1] + 16 * digits[2]
    np.testing.assert_array_equal(out.codes.numpy(), code)
    np.testing.assert_array_equal(quantizer.nearest(z).numpy(), code)
    value = sum(e[digit] for e, digit in zip(before, digits, strict=True))
    np.testing.assert_allclose(out.quantized.detach().numpy(), value, atol=1e-5)
    assert out.losses["commitment"].item() == pytest.approx(commitment, rel=1e-5)
    error = np.mean(left**2)
    assert out.statistics["quantisation_error"].item() == pytest.approx(error, rel=1e-5)
    np.testing.assert_allclose(z.grad.numpy(), gradient, atol=1e-6)
    if part == "ema":
        quantizer.step()
        for found, e, x in zip(codebooks(quantizer), before, inputs, strict=True):
            np.testing.assert_allclose(found, ema_step(e, x), rtol=1e-5, atol=1e-6)


def test_more_stages_leave_less():
    errors = []
    for stages in (1, 2, 3):
        quantizer = build("residual", size=8**stages, parts=stages, initialisation="kmeans")
        for step in range(20):
            torch.manual_seed(step)
            quantizer(torch.randn(100, 6))
            quantizer.step()
        out = quantizer.eval()(torch.randn(500, 6))
        errors.append(out.statistics["quantisation_error"].item())
    assert errors[1] < 0.8 * errors[0] and errors[2] < 0.8 * errors[1]


@pytest.mark.parametrize("batch", [10, 100])
def test_stages_start_one_after_another(batch):
    """From far away a later stage must not start from what a random codebook leaves."""
    quantizer = build("residual", size=64, initialisation="kmeans", decay=0.99)
    for step in range(16):
        torch.manual_seed(step)
        quantizer(torch.randn(batch, 6) + 20.0)
        quantizer.step()
    first, second = (torch.tensor(e) for e in codebooks(quantizer))
    assert (first.mean() - 20).abs() < 1 and second.mean().abs() < 0.5
    quantizer.reset_statistics()
    quantizer(torch.randn(500, 6) + 20.0)
    assert [part.epoch_statistics().used_codes for part in quantizer.parts] == [8, 8]


# --- both ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_codes_and_vectors_are_a_round_trip(name):
    quantizer = build(name, size=27, parts=3)
    codes = torch.arange(27).view(3, 9)
    vectors = quantizer.codes_to_vectors(codes)
    assert vectors.shape == (3, 9, 6)
    digits = quantizer.split(codes)
    assert torch.equal(quantizer.combine(digits), codes)
    assert all(((digit >= 0) & (digit < 3)).all() for digit in digits)
    if name == "product":
        assert torch.equal(quantizer.nearest(vectors), codes)
    values = quantizer.eval()(torch.randn(50, 6))
    torch.testing.assert_close(quantizer.codes_to_vectors(values.codes), values.quantized)


def test_parts_of_different_sizes():
    def part(size, dim, name="ema"):
        return build_quantizer(fitting_config(name=name, codebook_size=size), dim)

    product = ProductQuantizer(
        7, made_of=[part(3, 2), part(5, 1, "soft_em"), part(2, 4, "gumbel_softmax")]
    )
    assert product.codebook_size == 30 and product.dim == 7
    nested = ResidualQuantizer(7, made_of=[product, part(4, 7, "gumbel_softmax")])
    assert nested.codebook_size == 120
    for quantizer in (product, nested):
        codes = torch.arange(quantizer.codebook_size)
        assert torch.equal(quantizer.combine(quantizer.split(codes)), codes)
        z = torch.randn(40, 7, requires_grad=True)
        out = quantizer(z)
        assert out.samples.shape == (40, 10)
        assert torch.equal(out.codes, quantizer.nearest(z))
        (out.quantized.sum() + sum(out.losses.values())).backward()
        assert z.grad.isfinite().all()
        quantizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_drawn_codes_average_to_the_value(name):
    quantizer = build(name, "soft_em", samples=5, temperature=3.0)
    z = torch.randn(40, 6, requires_grad=True)
    out = quantizer(z)
    assert out.samples.shape == (40, 5) and (out.samples != out.codes[:, None]).any()
    mean = quantizer.codes_to_vectors(out.samples).mean(1)
    torch.testing.assert_close(out.quantized, mean, atol=1e-5, rtol=1e-5)
    assert torch.equal(out.codes, quantizer.nearest(z))
    error = (z - quantizer.codes_to_vectors(out.codes)).square().mean()
    torch.testing.assert_close(out.statistics["quantisation_error"], error.detach())
    (gradient,) = torch.autograd.grad(out.quantized.sum(), z)
    assert torch.equal(gradient, torch.ones_like(z))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", NAMES)
def test_every_part_trains(name, part):
    quantizer = build(name, part, dim=8)
    z = torch.randn(30, 8, requires_grad=True)
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    out = quantizer(z)
    (out.quantized.square().sum() + sum(out.losses.values())).backward()
    assert z.grad.isfinite().all() and z.grad.abs().sum() > 0
    for parameter in quantizer.parameters():
        assert parameter.grad.abs().sum() > 0
    quantizer.step()
    moved = [k for k, v in quantizer.state_dict().items() if not torch.equal(v, before[k])]
    for index in range(2):  # what only the optimiser trains is left to it
        starts = [key.startswith(f"parts.{index}.") for key in moved]
        assert any(starts) == hasattr(quantizer.parts[index], "codebook")
    assert torch.equal(quantizer.eval()(z).codes, quantizer.nearest(z))


@pytest.mark.parametrize("name", NAMES)
def test_progress_reaches_the_parts(name):
    quantizer = build(name, "soft_em", samples=10, samples_end=2, temperature_end=0.5)
    quantizer.set_progress(0.5)
    assert [(part.samples, part.temperature) for part in quantizer.parts] == [(6, 0.75)] * 2


@pytest.mark.parametrize("projection", ["none", "learnt"])
@pytest.mark.parametrize("part", ["ema", "gradient", "semhash"])
@pytest.mark.parametrize("name", NAMES)
def test_evaluation_leaves_everything_alone(name, part, projection):
    quantizer = build(name, part, projection=projection)
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    quantizer.eval()(torch.randn(30, 6))
    quantizer.step()
    for key, value in quantizer.state_dict().items():
        assert key.endswith("steps") or torch.equal(value, before[key]), key


@pytest.mark.parametrize("part", ["ema", "gumbel_softmax"])
@pytest.mark.parametrize("name", NAMES)
def test_nan_for_one_part_reaches_none(name, part):
    quantizer = build(name, part)
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    z = torch.randn(9, 6)
    z[3, 5] = torch.nan  # in the last slice
    assert quantizer(z).quantized.isnan().all()
    assert all(piece.epoch_statistics().positions == 0 for piece in quantizer.parts)
    quantizer.step()
    for key, value in quantizer.state_dict().items():
        assert key.endswith("steps") or torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_statistics_of_the_whole_and_of_the_parts(name):
    quantizer = build(name)
    for size in (5, 0, 9):
        quantizer(torch.randn(size, 6))
    statistics = quantizer.epoch_statistics()
    assert statistics.positions == 14 == int(statistics.usage.sum())
    digits = statistics.usage.view(4, 4)  # (second, first): the first digit is the lowest
    for part, axis in zip(quantizer.parts, (0, 1), strict=True):
        assert torch.equal(part.epoch_statistics().usage, digits.sum(axis))
    state = quantizer.running_state()
    resumed = build(name)
    resumed.load_running_state(state)
    assert torch.equal(resumed.epoch_statistics().usage, statistics.usage)
    for part, other in zip(quantizer.parts, resumed.parts, strict=True):
        assert torch.equal(part.epoch_statistics().usage, other.epoch_statistics().usage)
    quantizer.reset_statistics()
    assert quantizer.epoch_statistics().positions == 0
    assert all(part.epoch_statistics().positions == 0 for part in quantizer.parts)


@pytest.mark.parametrize("start", ["normal", "kmeans"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("shape", "size", "parts"),
    [
        ((0, 4), 9, 2),
        ((2, 0, 4), 9, 2),
        ((3, 4), 1, 2),
        ((6, 1), 5, 1),
        ((2, 4), 64, 2),
        ((4,), 16, 4),
    ],
)
def test_odd_sizes_train_without_a_fault(name, start, shape, size, parts):
    quantizer = build(name, "ema", size, shape[-1], parts=parts, initialisation=start)
    for _ in range(6):
        z = torch.randn(shape, requires_grad=True)
        out = quantizer(z)
        assert out.quantized.shape == z.shape and out.codes.shape == z.shape[:-1]
        (out.quantized.sum() + sum(out.losses.values())).backward()
        assert z.grad.isfinite().all()
        quantizer.step()
    assert all(np.isfinite(e).all() for e in codebooks(quantizer))
    quantizer.epoch_statistics()


@settings(max_examples=40)
@given(
    name=st.sampled_from(NAMES),
    part=st.sampled_from(["gradient", "ema", "hard_em", "soft_em"]),
    shape=st.lists(st.integers(0, 5), min_size=0, max_size=3),
    width=st.integers(1, 3),
    root=st.integers(1, 4),
    parts=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    training=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_shapes_codes_and_gradients_hold_for_any_input(
    name, part, shape, width, root, parts, dtype, training, seed
):
    torch.manual_seed(seed)
    size, dim = root**parts, width * parts
    config = fitting_config(
        name=name, part=part, parts=parts, codebook_size=size, kmeans_vectors=10
    )
    quantizer = build_quantizer(config, dim).train(training)
    mask = torch.rand(shape) < 0.7
    for _ in range(3):
        z = torch.randn(*shape, dim).to(dtype).requires_grad_()
        out = quantizer(z, mask)
        assert out.quantized.shape == z.shape and out.quantized.dtype == dtype
        assert out.codes.shape == mask.shape == out.samples.shape[:-1]
        for codes in (out.codes, out.samples):
            assert codes.dtype == torch.int64 and ((codes >= 0) & (codes < size)).all()
        assert (out.codes[~mask] == 0).all() and (out.quantized[~mask] == 0).all()
        assert torch.equal(out.codes[mask], quantizer.nearest(z.detach())[mask])
        mean = quantizer.codes_to_vectors(out.samples).mean(dim=-2)[mask]
        torch.testing.assert_close(out.quantized[mask].float(), mean.detach(), atol=2e-2, rtol=2e-2)
        (gradient,) = torch.autograd.grad(out.quantized.sum(), z)
        assert torch.equal(gradient, mask[..., None].expand_as(z).to(dtype))
        assert all(not value.requires_grad for value in out.statistics.values())
        quantizer.step()
    statistics = quantizer.epoch_statistics()
    assert statistics.positions == 3 * int(mask.sum()) == int(statistics.usage.sum())
    assert 0 <= statistics.perplexity <= statistics.used_codes + 1e-9
