"""One-line use, stages, automatic steps, channels first; projections, cosine and rotation."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from vqnmt.errors import VqnmtError
from vqnmt.quantizers import (
    EMAConfig,
    EMAQuantizer,
    FSQQuantizer,
    GradientQuantizer,
    GumbelSoftmaxQuantizer,
    HardEMQuantizer,
    ProductQuantizer,
    QuantizerConfig,
    ResidualQuantizer,
    SoftEMQuantizer,
)

NORMAL = {"initialisation": "normal", "restart_threshold": 0.0, "decay": 0.9}
NEAREST = [GradientQuantizer, EMAQuantizer, HardEMQuantizer]


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def table(quantizer) -> np.ndarray:
    return quantizer.codebook.vectors.detach().double().numpy().copy()


# --- one line --------------------------------------------------------------------------------


def test_one_line_builds_and_unpacks():
    torch.manual_seed(0)
    quantizer = EMAQuantizer(dim=64, codebook_size=512)
    assert quantizer.config == EMAConfig(codebook_size=512) == QuantizerConfig(codebook_size=512)
    assert repr(quantizer).startswith("EMAQuantizer(\n  dim=64, codebook_size=512\n")
    output = quantizer(torch.randn(8, 20, 64))
    quantized, indices, loss = output
    assert quantized is output.quantized and indices is output.codes
    assert float(loss) == sum(float(value) for value in output.losses.values()) > 0
    assert float(FSQQuantizer(dim=4)(torch.randn(3, 4)).loss) == 0  # it has none
    assert SoftEMQuantizer(4, samples=3)(torch.randn(5, 4)).samples.shape == (5, 3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EMAQuantizer(dim=4, samples=3), r"quantizer\.samples is not a key of EMAConfig"),
        (lambda: EMAQuantizer(dim=4, decai=0.9), r"quantizer\.decai .*: did you mean decay\?"),
        (
            lambda: QuantizerConfig(name="fsq", beta=1.0),
            r"choose among name, codebook_size, levels",
        ),
        (lambda: EMAQuantizer(4, EMAConfig(), decay=0.9), "a config or decay, but not both"),
        (lambda: EMAConfig(name="soft_em"), r"quantizer\.name is 'soft_em': its .* SoftEMConfig"),
        (lambda: EMAConfig(codebook_dim=0), r"quantizer\.codebook_dim is 0: it must be 1 to"),
        (lambda: QuantizerConfig(name="vq"), r"quantizer\.name is 'vq': .*one of gradient, ema"),
    ],
)
def test_unknown_keys_are_refused_with_those_that_exist(build, message):
    with pytest.raises(VqnmtError, match=message):
        build()


def test_stages_are_the_codes_of_each_part():
    torch.manual_seed(0)
    z = torch.randn(3, 5, 6)
    mask = torch.rand(3, 5) < 0.7
    product = ProductQuantizer(dim=6, codebook_size=64, parts=3, **NORMAL)
    output = product(z, mask)
    for i, part in enumerate(product.parts):
        assert torch.equal(output.stages[..., i], part.nearest(z[..., 2 * i : 2 * i + 2]) * mask)
    assert torch.equal(product.combine(output.stages.unbind(-1)), output.codes)
    residual = ResidualQuantizer(dim=6, codebook_size=16, **NORMAL)
    output, left = residual(z), z
    for i, stage in enumerate(residual.parts):
        assert torch.equal(output.stages[..., i], stage.nearest(left))
        left = left - stage.codes_to_vectors(output.stages[..., i])
    assert EMAQuantizer(6)(z).stages.shape == (3, 5, 1)


def test_automatic_steps_are_those_after_each_optimiser_step():
    for kind in (EMAQuantizer, GradientQuantizer, ResidualQuantizer):
        torch.manual_seed(0)
        by_hand = kind(dim=4, codebook_size=9)
        torch.manual_seed(0)
        by_itself = kind(dim=4, codebook_size=9, auto_step=True)
        for number in range(12):
            z = torch.randn(30, 4)
            if number:
                by_hand.step()
            found = by_hand(z), by_itself(z)
            assert torch.equal(found[0].quantized, found[1].quantized)
            by_itself.eval()(z)  # counts for nothing
            by_itself.train()
        states = by_hand.state_dict(), by_itself.state_dict()
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
        assert int(next(v for k, v in states[0].items() if k.endswith("steps"))) == 11


def test_a_codebook_that_nobody_moves_is_reported_once():
    forgotten = EMAQuantizer(dim=2, codebook_size=3)
    with pytest.warns(
        UserWarning, match=r"100 forward passes .* call step\(\).*auto_step=True"
    ) as told:
        for _ in range(250):
            forgotten(torch.randn(2, 2))
    assert [warning.filename for warning in told] == [__file__]  # where it is called
    composite = ResidualQuantizer(dim=2, codebook_size=4)
    with pytest.warns(UserWarning, match="^ResidualQuantizer has had") as told:
        for _ in range(101):
            composite(torch.randn(2, 2))
    assert len(told) == 1  # none of its parts, which the caller does not step
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantizers = [
            EMAQuantizer(dim=2, codebook_size=3, auto_step=True),
            EMAQuantizer(dim=2, codebook_size=3).eval(),
            GumbelSoftmaxQuantizer(dim=2, codebook_size=3),  # it has nothing to move
            ProductQuantizer(dim=2, codebook_size=4, part="semhash"),  # nor have these parts
        ]
        stepped = EMAQuantizer(dim=2, codebook_size=3)
        for number in range(120):
            for quantizer in (*quantizers, stepped):
                quantizer(torch.randn(2, 2))
            if number % 90 == 0:
                stepped.step()


def test_channels_first_are_channels_last_moved():
    torch.manual_seed(0)
    images = EMAQuantizer(dim=3, codebook_size=7, channel_last=False, **NORMAL)
    torch.manual_seed(0)
    plain = EMAQuantizer(dim=3, codebook_size=7, **NORMAL)
    z = torch.randn(2, 3, 4, 5, requires_grad=True)
    mask = torch.rand(2, 4, 5) < 0.8
    found, expected = images(z, mask), plain(z.movedim(1, -1), mask)
    assert found.quantized.shape == z.shape and found.codes.shape == (2, 4, 5)
    assert torch.equal(found.quantized, expected.quantized.movedim(-1, 1))
    assert torch.equal(images.nearest(z), plain.nearest(z.movedim(1, -1)))
    with pytest.raises(VqnmtError, match=r"shape \(2, 4, 3\): its second dimension must be 3"):
        images(torch.randn(2, 4, 3))
    with pytest.raises(VqnmtError, match="its second dimension must be 3"):
        images(torch.randn(3))


# --- cosine, projections, rotation -----------------------------------------------------------


@pytest.mark.parametrize("kind", NEAREST)
def test_cosine_takes_the_code_of_the_nearest_direction(kind):
    torch.manual_seed(0)
    quantizer = kind(dim=5, codebook_size=7, cosine=True, beta=0.5, **NORMAL)
    z = (3 * torch.randn(20, 5)).requires_grad_()
    weight = torch.randn(20, 5)
    out = quantizer(z)
    (out.quantized * weight).sum().backward()
    x, e = unit(z.detach().double().numpy()), table(quantizer)
    codes = (x @ unit(e).T).argmax(1)
    np.testing.assert_array_equal(out.codes.numpy(), codes)
    np.testing.assert_allclose(out.quantized.detach().numpy(), unit(e)[codes], atol=1e-6)
    np.testing.assert_allclose(
        quantizer.codes_to_vectors(out.codes).detach(), unit(e)[codes], atol=1e-6
    )
    error = ((x - unit(e)[codes]) ** 2).mean()
    assert out.losses["commitment"].item() == pytest.approx(0.5 * error, rel=1e-5)
    # Straight through to z / ||z||, whose Jacobian is (I - x x^T) / ||z||.
    g = weight.double().numpy()
    norms = z.detach().double().norm(dim=1, keepdim=True).numpy()
    expected = (g - x * (x * g).sum(1, keepdims=True)) / norms
    np.testing.assert_allclose(z.grad.numpy(), expected, atol=1e-5)
    quantizer.step()
    one_hot = np.eye(7)[codes]
    hit = one_hot.sum(0) > 0
    if kind is HardEMQuantizer:
        means = (one_hot.T @ x)[hit] / one_hot.sum(0)[hit][:, None]
        np.testing.assert_allclose(table(quantizer)[hit], means, atol=1e-5)
    if kind is EMAQuantizer:
        moved = unit(0.9 * e + 0.1 * one_hot.T @ x)  # counts change no direction
        np.testing.assert_allclose(unit(table(quantizer)), moved, atol=1e-5)


@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize("kind", [*NEAREST, SoftEMQuantizer])
def test_projections_are_two_linear_layers_around_a_small_codebook(kind, rotation):
    settings = {"codebook_size": 7, "temperature": 1e-6} if kind is SoftEMQuantizer else {}
    settings |= NORMAL | {"rotation": rotation}
    torch.manual_seed(0)
    whole = kind(dim=6, codebook_dim=2, **settings)
    inner = kind(dim=2, **settings)
    down, up = nn.Linear(6, 2), nn.Linear(2, 6)
    down.load_state_dict(whole.project_in.state_dict())
    up.load_state_dict(whole.project_out.state_dict())
    inner.codebook.load_state_dict(whole.codebook.state_dict())
    for step in range(4):
        z = torch.randn(3, 5, 6)
        weight = torch.randn(3, 5, 6)
        mask = torch.rand(3, 5) < 0.8
        left, right = z.clone().requires_grad_(), z.clone().requires_grad_()
        torch.manual_seed(step)
        out = whole(left, mask)
        torch.manual_seed(step)
        small = inner(down(right), mask)
        expected = torch.where(mask[..., None], up(small.quantized), 0.0)
        ((out.quantized * weight).sum() + out.loss).backward()
        ((expected * weight).sum() + small.loss).backward()
        torch.testing.assert_close(out.quantized, expected)
        assert torch.equal(out.codes, small.codes)
        torch.testing.assert_close(left.grad, right.grad)
        torch.testing.assert_close(whole.project_in.weight.grad, down.weight.grad)
        torch.testing.assert_close(
            whole.codes_to_vectors(out.codes), up(inner.codes_to_vectors(out.codes))
        )
        whole.step()
        inner.step()
        torch.testing.assert_close(whole.codebook.vectors, inner.codebook.vectors)


def rotation_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The rotation of the unit vector a onto b, by its angle in the plane of both."""
    cosine = a @ b
    v = unit(b - cosine * a)
    sine = b @ v
    plane = np.outer(a, a) + np.outer(v, v)
    return np.eye(len(a)) + sine * (np.outer(v, a) - np.outer(a, v)) + (cosine - 1) * plane


@pytest.mark.parametrize("kind", [*NEAREST, ResidualQuantizer])
def test_the_rotation_trick_turns_the_gradient(kind):
    torch.manual_seed(0)
    quantizer = kind(dim=5, codebook_size=9, rotation=True, **NORMAL)
    z = torch.randn(12, 5, requires_grad=True)
    weight = torch.randn(12, 5)
    out = quantizer(z)
    (out.quantized * weight).sum().backward()
    x, q = z.detach().double().numpy(), out.quantized.detach().double().numpy()
    for i, g in enumerate(weight.double().numpy()):
        scale = np.linalg.norm(q[i]) / np.linalg.norm(x[i])
        map_ = scale * rotation_matrix(unit(x[i]), unit(q[i]))
        np.testing.assert_allclose(map_ @ x[i], q[i], atol=1e-9)  # the oracle is such a map
        np.testing.assert_allclose(z.grad[i].numpy(), map_.T @ g, atol=1e-4)
    assert torch.equal(out.quantized.detach(), quantizer.codes_to_vectors(out.codes).detach())


@pytest.mark.parametrize("options", [{"rotation": True}, {"cosine": True}])
def test_options_equal_the_peer(options):
    package = pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    ours = EMAQuantizer(dim=6, codebook_size=10, **options, **NORMAL)
    theirs = package.VectorQuantize(
        dim=6,
        codebook_size=10,
        commitment_weight=0.25,
        kmeans_init=False,
        threshold_ema_dead_code=0,
        use_cosine_sim="cosine" in options,
        rotation_trick="rotation" in options,
    )
    theirs._codebook.embed.copy_(ours.codebook.table)
    z, weight = torch.randn(4, 8, 6), torch.randn(4, 8, 6)
    left, right = z.clone().requires_grad_(), z.clone().requires_grad_()
    quantized, codes, loss = ours(left)
    ((quantized * weight).sum() + loss).backward()
    quantized_there, codes_there, loss_there = theirs(right)
    ((quantized_there * weight).sum() + loss_there.sum()).backward()
    assert torch.equal(codes, codes_there)
    torch.testing.assert_close(quantized, quantized_there, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(left.grad, right.grad, atol=1e-5, rtol=1e-4)


def test_opposite_and_zero_vectors_have_finite_gradients():
    quantizer = EMAQuantizer(dim=2, codebook_size=1, rotation=True, **NORMAL)
    quantizer.codebook.vectors.copy_(torch.tensor([[1.0, 0.0]]))
    z = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    quantizer(z).quantized.sum().backward()
    assert z.grad.isfinite().all() and torch.equal(z.grad[2], torch.ones(2))
