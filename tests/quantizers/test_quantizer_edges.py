"""Edge cases, errors and properties over shapes, masks and dtypes."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.quantizers.fitting import fitting_config
from vqnmt.errors import VqnmtError
from vqnmt.quantizers import QuantizerConfig, build_quantizer

NAMES = ["gradient", "ema", "hard_em", "soft_em"]
FURTHER = ["gumbel_softmax", "semhash", "product", "residual", "fsq", "lfq", "sim_vq"]


def build_any(name: str):
    """Any quantizer with 4 codes of dimension 4."""
    config = fitting_config(name=name, codebook_size=4, levels=[4])
    return build_quantizer(config, 4)


@pytest.mark.parametrize("start", ["normal", "kmeans"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("shape", "size"),
    [((0, 4), 5), ((2, 0, 4), 5), ((3, 4), 1), ((6, 1), 5), ((2, 4), 50), ((4,), 3)],
)
def test_odd_sizes_train_without_a_fault(name, start, shape, size):
    torch.manual_seed(0)
    config = fitting_config(name=name, codebook_size=size, initialisation=start, kmeans_vectors=7)
    quantizer = build_quantizer(config, shape[-1])
    for _ in range(6):
        z = torch.randn(shape, requires_grad=True)
        out = quantizer(z)
        assert out.quantized.shape == z.shape and out.codes.shape == z.shape[:-1]
        (out.quantized.sum() + sum(out.losses.values())).backward()
        assert z.grad.isfinite().all()
        quantizer.step()
    assert quantizer.codebook.vectors.isfinite().all()
    quantizer.epoch_statistics()


@pytest.mark.parametrize("name", NAMES + FURTHER)
def test_all_masked_is_an_empty_batch(name):
    quantizer = build_any(name)
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    z = torch.randn(2, 3, 4, requires_grad=True)
    out = quantizer(z, torch.zeros(2, 3, dtype=torch.bool))
    (out.quantized.sum() + sum(out.losses.values())).backward()
    quantizer.step()
    assert out.quantized.abs().sum() == 0 and z.grad.abs().sum() == 0
    assert all(value.item() == 0 for value in out.losses.values())
    assert all(value == 0 for value in out.statistics.values())
    for key, value in quantizer.state_dict().items():
        assert key.endswith("steps") or torch.equal(value, before[key])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("name", NAMES + FURTHER)
def test_nan_in_is_nan_out_and_nothing_is_counted(name, value):
    torch.manual_seed(0)
    quantizer = build_any(name)
    for _ in range(3):
        quantizer(torch.randn(30, 4))
        quantizer.step()
    before = {key: item.clone() for key, item in quantizer.state_dict().items()}
    z = torch.randn(5, 6, 4)
    z[2, 3, 1] = value
    mask = torch.rand(5, 6) < 0.5
    mask[2, 3] = True
    for real in (None, mask):
        faulty = z.clone().requires_grad_()
        out = quantizer(faulty, real)
        assert out.quantized.isnan().all() and out.quantized.shape == z.shape
        assert out.codes.shape == (5, 6) == out.samples.shape[:-1]
        for codes in (out.codes, out.samples):
            assert ((codes >= 0) & (codes < 4)).all()
        out.quantized.sum().backward()  # the encoder takes part, as other processes' do
        assert faulty.grad is not None
    assert quantizer.epoch_statistics().positions == 90
    quantizer.step()  # nothing is left of the faulty batches
    for key, item in quantizer.state_dict().items():
        assert key.endswith("steps") or torch.equal(item, before[key]), key
    mask[2, 3] = False
    assert quantizer(z, mask).quantized.isfinite().all()


@pytest.mark.parametrize("name", NAMES + FURTHER)
def test_nan_is_an_error_where_no_loss_would_tell(name):
    quantizer = build_any(name).eval()
    z = torch.full((3, 4), float("nan"))
    with torch.no_grad(), pytest.raises(VqnmtError, match="NaN or infinite vectors"):
        quantizer(z)
    with torch.inference_mode(), pytest.raises(VqnmtError, match="NaN or infinite vectors"):
        quantizer(z)
    # A process without a share of a training batch has its quantizers in evaluation mode.
    assert quantizer(z).quantized.isnan().all()


def test_wrong_shapes_are_refused():
    quantizer = build_quantizer(QuantizerConfig(codebook_size=5), 4)
    with pytest.raises(VqnmtError, match="last dimension must be 4"):
        quantizer(torch.randn(2, 3))
    with pytest.raises(VqnmtError, match=r"must have shape \(2, 3\)"):
        quantizer(torch.randn(2, 3, 4), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(VqnmtError, match=r"torch\.bool"):
        quantizer(torch.randn(2, 3, 4), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "vq"),
        ("codebook_size", 0),
        ("codebook_size", (1 << 24) + 1),
        ("codebook_size", 10**400),
        ("samples", 10**9),
        ("samples_end", 10**9),
        ("kmeans_vectors", 10**12),
        ("kmeans_iterations", 10**9),
        ("parts", 10**9),
        ("beta", -1.0),
        ("beta", float("nan")),
        ("decay", 1.0),
        ("epsilon", -1e-5),
        ("samples", 0),
        ("samples_end", 0),
        ("temperature", 0.0),
        ("temperature_end", -1.0),
        ("distance_scale", "d"),
        ("initialisation", "zeros"),
        ("kmeans_vectors", 0),
        ("kmeans_iterations", 0),
        ("restart_threshold", 1.0),
        ("restart_until", 1.1),
        ("prior_weight", -0.1),
        ("noise", float("inf")),
        ("part", "product"),
        ("parts", 0),
        ("projection", "linear"),
        ("entropy_weight", -1.0),
    ],
)
def test_settings_out_of_range_name_their_key(key, value):
    with pytest.raises(VqnmtError, match=rf"quantizer\.{key} is"):
        QuantizerConfig(**{key: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "semhash", "codebook_size": 100}, "is 100: .*power of two.* such as 64 or 128"),
        ({"name": "lfq", "codebook_size": 1}, "is 1: .*power of two.* such as 2 or 4"),
        ({"name": "product", "codebook_size": 50}, "is 50: .*quantizer.parts=2, such as 49 or 64"),
        ({"name": "residual", "parts": 3, "codebook_size": 9}, "is 9: .*such as 8 or 27"),
        ({"name": "product", "part": "semhash", "codebook_size": 9}, "is 9: .*such as 4 or 16"),
        ({"name": "fsq", "codebook_size": 64}, r"is 64: .*256, the product .*\[8, 8, 4\]"),
    ],
)
def test_codebook_sizes_that_do_not_fit(settings, message):
    with pytest.raises(VqnmtError, match=rf"quantizer\.codebook_size {message}"):
        QuantizerConfig(**settings)


@pytest.mark.parametrize("levels", [[], [8, 2], [8, 4.0], [True, 8]])
def test_levels_that_do_not_fit(levels):
    with pytest.raises(VqnmtError, match=r"quantizer\.levels is .*integers of 3 or more"):
        QuantizerConfig(name="fsq", levels=levels)


def test_the_reference_start_excludes_restarts():
    with pytest.raises(VqnmtError, match=r"quantizer\.restart_threshold"):
        QuantizerConfig(initialisation="reference")
    QuantizerConfig(initialisation="reference", restart_threshold=0.0)


@settings(max_examples=80)
@given(
    name=st.sampled_from(NAMES),
    shape=st.lists(st.integers(0, 5), min_size=0, max_size=3),
    dim=st.integers(1, 6),
    size=st.integers(1, 12),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    training=st.booleans(),
    seed=st.integers(0, 1000),
)
# k-means on fewer vectors than codes left two codes equal, and their order to the batch's shape.
@example("gradient", [2, 2, 3], 6, 11, torch.float32, True, 1)
def test_shapes_codes_and_gradients_hold_for_any_input(
    name, shape, dim, size, dtype, training, seed
):
    torch.manual_seed(seed)
    config = fitting_config(name=name, codebook_size=size, kmeans_vectors=10)
    quantizer = build_quantizer(config, dim).train(training)
    mask = torch.rand(shape) < 0.7
    for _ in range(3):
        z = torch.randn(*shape, dim).to(dtype).requires_grad_()
        out = quantizer(z, mask)
        draws = out.samples.shape[-1]
        assert out.quantized.shape == z.shape and out.quantized.dtype == dtype
        assert out.codes.shape == mask.shape == out.samples.shape[:-1]
        assert out.codes.dtype == out.samples.dtype == torch.int64
        assert draws == (config.samples if name == "soft_em" and training else 1)
        for codes in (out.codes, out.samples):
            assert ((codes >= 0) & (codes < size)).all()
        assert (out.codes[~mask] == 0).all() and (out.quantized[~mask] == 0).all()
        assert torch.equal(out.codes[mask], quantizer.nearest(z.detach())[mask])
        # the vectors are the mean of the samples' vectors
        mean = quantizer.codes_to_vectors(out.samples).mean(dim=-2)[mask]
        torch.testing.assert_close(out.quantized[mask].float(), mean.detach(), atol=2e-2, rtol=2e-2)
        # the gradient passes straight through
        (gradient,) = torch.autograd.grad(out.quantized.sum(), z)
        assert torch.equal(gradient, mask[..., None].expand_as(z).to(dtype))
        assert all(not value.requires_grad for value in out.statistics.values())
        quantizer.step()
    statistics = quantizer.epoch_statistics()
    assert statistics.positions == 3 * int(mask.sum()) == int(statistics.usage.sum())
    assert statistics.used_codes <= size
    assert 0 <= statistics.perplexity <= statistics.used_codes + 1e-9
    assert 0 <= statistics.posterior_entropy <= 1e-5 + torch.tensor(float(size)).log().item()
