"""The latent Transformer: losses, padding, gradients, curricula, translation, learning."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from tests.models.searching import generate
from vqnmt.errors import VqnmtError
from vqnmt.models import LatentConfig
from vqnmt.models.latent import prediction_loss, uniform_copy
from vqnmt.models.shared import copy_weights
from vqnmt.tokens import PAD
from vqnmt.translate.generation import pad_codes, reconstruct

OUTPUTS = pytest.mark.parametrize("output", ["ctc", "cross_entropy"])
QUANTIZERS = pytest.mark.parametrize("name", ["ema", "soft_em"])


def real(row: Tensor) -> list[int]:
    return [t for t in row.tolist() if t != PAD]


def singles(pairs: tuple[Tensor, Tensor]):
    """Each pair alone, without padding."""
    for source, target in zip(*pairs, strict=True):
        yield torch.tensor([real(source)]), torch.tensor([real(target)])


def compressor_gradient(model) -> float:
    """Largest gradient among the compressor's weights."""
    gradients = [
        p.grad.abs().max().item() for p in model.compressor.parameters() if p.grad is not None
    ]
    return max(gradients, default=0.0)


# --- losses ----------------------------------------------------------------------------------


@OUTPUTS
@QUANTIZERS
def test_named_losses_add_up_to_the_total(make_latent, pairs, output, name):
    model = make_latent(output=output, quantizer={"name": name})
    for mode in (True, False):
        losses = model.train(mode)(*pairs)
        named = [losses.terms[k] for k in ("reconstruction", "prediction", "commitment")]
        torch.testing.assert_close(losses.total.detach(), torch.stack(named).sum())
        assert losses.tokens == 15 + (4 if output == "cross_entropy" else 0)
        assert not any(term.requires_grad for term in losses.terms.values())


@OUTPUTS
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("compression", [0, 2])
def test_padding_a_batch_changes_no_loss_and_no_code(
    make_latent, pairs, output, causal, compression
):
    model = make_latent(output=output, causal_decoder=causal, compression=compression).eval()
    losses = model(*pairs)
    wider = model(*(pad(x, (0, 5)) for x in pairs))
    for name, term in losses.terms.items():
        torch.testing.assert_close(wider.terms[name], term, msg=name)
    # The batch is the weighted mean of its sentences, each alone and without padding.
    sums: dict[str, float] = {}
    weights: dict[str, int] = {}
    memory, memory_mask = model.encode(pairs[0])
    z_e, mask = model.compress(pairs[1], memory, memory_mask)
    codes = model.quantizer.nearest(z_e)
    for row, (source, target) in enumerate(singles(pairs)):
        alone = model(source, target)
        length = math.ceil((target.shape[1] + (output == "cross_entropy")) / 2**compression)
        assert mask[row].sum() == length
        z_alone, _ = model.compress(target, *model.encode(source))
        assert model.quantizer.nearest(z_alone)[0].tolist() == codes[row, :length].tolist()
        weight = {"reconstruction": alone.tokens, "prediction": length, "commitment": length}
        for name, count in weight.items():
            sums[name] = sums.get(name, 0.0) + alone.terms[name].item() * count
            weights[name] = weights.get(name, 0) + count
    for name, value in sums.items():
        assert losses.terms[name].item() == pytest.approx(value / weights[name], rel=1e-4), name


def test_an_empty_target_beside_others_gives_finite_losses(make_latent, pairs):
    for output in ("ctc", "cross_entropy"):
        model = make_latent(output=output)
        target = pairs[1].clone()
        target[1] = PAD
        losses = model(pairs[0], target)
        losses.total.backward()
        assert losses.total.isfinite()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients), output


@pytest.mark.parametrize("joint", [True, False])
def test_prediction_loss_is_numpys(make_latent, joint):
    model = make_latent(joint_end=joint)  # K = 8
    logits = torch.randn(2, 3, 16) if joint else torch.randn(2, 4, 9)  # L = 3
    samples = torch.randint(0, 8, (2, 3, 4))
    mask = torch.tensor([[True, True, True], [True, False, False]])
    scores = logits.double().numpy()
    log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    terms = [] if joint else [log_p[0, 3, 8], log_p[1, 1, 8]]  # the ends
    for row, position in ((0, 0), (0, 1), (0, 2), (1, 0)):
        last = 8 if joint and (row, position) in ((0, 2), (1, 0)) else 0
        label = np.bincount(samples[row, position] + last, minlength=log_p.shape[-1]) / 4
        terms.append((label * log_p[row, position]).sum())  # mean of one-hots
    found = prediction_loss(logits, *model.symbols(samples, mask))
    assert found.item() == pytest.approx(-np.mean(terms), rel=1e-5)


def test_predictor_sees_only_earlier_codes(make_latent, pairs):
    model = make_latent(predictor_layers=2).eval()
    memory, memory_mask = model.encode(pairs[0])
    vectors = model.quantizer.codes_to_vectors(torch.randint(0, 8, (4, 5)))
    changed = torch.cat([vectors[:, :2], torch.randn(4, 3, 16)], 1)
    before, after = (model.predict(v, memory, memory_mask) for v in (vectors, changed))
    assert before.shape == (4, 5, 16)  # 2K
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert (before[:, 3] - after[:, 3]).abs().max() > 1e-3


@pytest.mark.parametrize("joint", [True, False])
def test_predictor_steps_are_its_training_forward(make_latent, pairs, joint):
    model = make_latent(predictor_layers=2, joint_end=joint).eval()
    memory, memory_mask = model.encode(pairs[0])
    codes = torch.randint(0, 8, (4, 5))
    expected = model.predict(model.quantizer.codes_to_vectors(codes), memory, memory_mask)
    state = model.predictor.start(memory, memory_mask)
    inputs = torch.cat([torch.full((4, 1), model.end_of_codes), codes], 1)
    inputs = inputs[:, : expected.shape[1]]
    found = torch.stack([model.step(column, state) for column in inputs.T], 1)
    torch.testing.assert_close(found, expected)


# --- gradients -------------------------------------------------------------------------------


@QUANTIZERS
@OUTPUTS
def test_gradient_reaches_the_compressor_straight_through(make_latent, pairs, output, name):
    # Without commitment and predictor gradient, only the reconstruction is left.
    model = make_latent(output=output, quantizer={"name": name, "beta": 0.0})
    model(*pairs).total.backward()
    assert compressor_gradient(model) > 1e-6
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("flag", [False, True])
def test_predictor_gradient(make_latent, pairs, monkeypatch, flag):
    model = make_latent(predictor_gradient=flag, quantizer={"beta": 0.0})
    monkeypatch.setattr(
        model.output, "loss", lambda weight, hidden, mask, target: (hidden.sum() * 0, 1)
    )
    model(*pairs).total.backward()
    assert (compressor_gradient(model) > 1e-6) is flag
    assert model.code_output.weight.grad.abs().max() > 0
    assert model.encoder.layers[0].attention.query.weight.grad.abs().max() > 0


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_code_noise_replaces_codes_by_the_predictors(make_latent, pairs, noise):
    model = make_latent(code_noise=noise, quantizer={"beta": 0.0})
    model(*pairs).total.backward()
    assert (compressor_gradient(model) > 1e-6) is (noise == 0.0)
    seen = []
    model.decompressor.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(*pairs)
    vectors = model.quantizer.codes_to_vectors(torch.arange(8))
    distances = torch.cdist(seen[0].detach(), vectors).min(-1).values
    memory, memory_mask = model.encode(pairs[0])
    _, mask = model.compress(pairs[1], memory, memory_mask)
    assert distances[mask].max() < 1e-3  # still code vectors


def test_code_noise_is_off_in_evaluation(make_latent, pairs):
    torch.manual_seed(1)
    noisy = make_latent(code_noise=1.0).eval()
    torch.manual_seed(1)
    plain = make_latent().eval()
    assert torch.equal(noisy(*pairs).total, plain(*pairs).total)


def test_gold_mixing_hides_the_codes_and_lets_them_in(make_latent, pairs):
    model = make_latent(output="cross_entropy", gold_mixing=True)

    def reconstruction(codebook: Tensor) -> float:
        model.quantizer.codebook.vectors.copy_(codebook)
        torch.manual_seed(3)
        return model(*pairs).terms["reconstruction"].item()

    one, other = torch.randn(8, 16), torch.randn(8, 16)
    for fraction in (0.0, 0.5, 1.0):
        model.set_progress(fraction)
        assert model.gold_probability == 1.0 - fraction
        same = reconstruction(one) == pytest.approx(reconstruction(other), rel=1e-6)
        assert same is (fraction == 0.0)
    model.set_progress(0.0)
    model.eval()  # never in evaluation
    assert reconstruction(one) != pytest.approx(reconstruction(other), rel=1e-6)


def test_gold_positions_hold_the_targets_embeddings(make_latent, pairs):
    model = make_latent(output="cross_entropy", gold_mixing=True, compression=2)
    labels = model.output.labels(pairs[1])  # (4, 8): two codes of four
    mixed = model._with_gold(torch.full((4, 8, 16), 9.0), pairs[1])
    torch.testing.assert_close(mixed, model.embedding(labels))


def test_word_dropout_hides_the_words_from_the_compressor(make_latent, pairs):
    model = make_latent(word_dropout=1.0)
    other = torch.where(pairs[1] == PAD, PAD, 11)
    memory, memory_mask = model.encode(pairs[0])
    one, two = (model.compress(target, memory, memory_mask)[0] for target in (pairs[1], other))
    torch.testing.assert_close(one, two)
    model.eval()
    one, two = (model.compress(target, memory, memory_mask)[0] for target in (pairs[1], other))
    assert (one - two).abs().max() > 1e-3


def test_compressor_without_source_does_not_see_it(make_latent, pairs):
    for flag in (True, False):
        model = make_latent(source_in_compressor=flag).eval()
        memory, memory_mask = model.encode(pairs[0])
        one, _ = model.compress(pairs[1], memory, memory_mask)
        two, _ = model.compress(pairs[1], memory + 1.0, memory_mask)
        other, _ = model.compress(pairs[1], torch.randn_like(memory), memory_mask)
        assert torch.equal(one, other) is not flag
        assert torch.equal(one, two) or flag


def test_the_codebook_moves_after_the_optimizer_step_only(make_latent, pairs):
    model = make_latent(quantizer={"decay": 0.5})
    before = model.quantizer.codebook.vectors.clone()
    model(*pairs)
    assert torch.equal(model.quantizer.codebook.vectors, before)
    model.after_optimizer_step()
    assert not torch.equal(model.quantizer.codebook.vectors, before)


def test_progress_reaches_the_quantizer(make_latent):
    model = make_latent(quantizer={"name": "soft_em", "samples": 10, "samples_end": 2})
    model.set_progress(0.5)
    assert model.quantizer.samples == 6


def test_latents_pass_unquantised_at_the_start(make_latent, pairs):
    model = make_latent(continuous_start=0.25, quantizer={"decay": 0.5})
    before = model.quantizer.codebook.vectors.clone()
    seen = []
    model.decompressor.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for fraction in (0.0, 0.24):
        model.set_progress(fraction)
        losses = model(*pairs)
        assert set(losses.terms) == {"reconstruction"}
        z_e, mask = model.compress(pairs[1], *model.encode(pairs[0]))
        torch.testing.assert_close(seen[-1], z_e)
        model.after_optimizer_step()
    assert torch.equal(model.quantizer.codebook.vectors, before)
    assert model.quantizer.epoch_statistics().positions == 0
    model.set_progress(0.25)
    losses = model(*pairs)
    assert {"reconstruction", "prediction", "commitment"} <= set(losses.terms)
    assert torch.cdist(seen[-1][mask].detach(), before).min(-1).values.max() < 1e-3
    model.after_optimizer_step()
    assert not torch.equal(model.quantizer.codebook.vectors, before)


def test_evaluation_is_quantised_even_at_the_start(make_latent, pairs):
    model = make_latent(continuous_start=0.5).eval()
    assert "prediction" in model(*pairs).terms


@pytest.mark.parametrize("positions", [1, 4, 9])
def test_uniform_copy_reads_the_source_at_the_same_relative_place(positions):
    memory = torch.randn(2, 5, 3)
    memory_mask = torch.arange(5) < torch.tensor([[5], [2]])
    mask = torch.arange(12) < torch.tensor([[positions], [12]])
    found = uniform_copy(memory, memory_mask, mask)
    assert found.shape == (2, 12, 3)
    for i in range(positions):
        assert torch.equal(found[0, i], memory[0, i * 5 // positions])
    for i in range(12):
        assert torch.equal(found[1, i], memory[1, i * 2 // 12])


# --- translation -----------------------------------------------------------------------------


@OUTPUTS
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("compression", [0, 1, 3])
def test_a_batch_translates_as_its_sentences_do(make_latent, pairs, output, beam, compression):
    model = make_latent(output=output, compression=compression).eval()
    together = generate(model, pairs[0], beam)
    assert len(together) == 4
    for (hypothesis, tokens, _), (source, _) in zip(together, singles(pairs), strict=True):
        ((alone, alone_tokens, _),) = generate(model, source, beam)
        assert hypothesis.symbols == alone.symbols
        assert hypothesis.log_probability == pytest.approx(alone.log_probability, rel=1e-4)
        assert tokens == alone_tokens
        assert len(alone.symbols) <= (2 * source.shape[1] + 10) // 2**compression + 1
        assert all(0 <= code < 8 for code in alone.symbols)


@pytest.mark.parametrize("joint", [True, False])
def test_codes_log_probability_is_that_of_the_training_forward(make_latent, pairs, joint):
    model = make_latent(joint_end=joint).eval()
    found = [translation.codes for translation in generate(model, pairs[0])]
    for hypothesis, (source, _) in zip(found, singles(pairs), strict=True):
        codes = torch.tensor([hypothesis.symbols], dtype=torch.long)
        vectors = model.quantizer.codes_to_vectors(codes)
        log_p = model.predict(vectors, *model.encode(source)).log_softmax(-1)[0]
        if joint:
            codes[0, -1] += model.end_of_codes
        steps = [log_p[i, code].item() for i, code in enumerate(codes[0].tolist())]
        if hypothesis.ended:
            steps.append(log_p[-1, model.end_of_codes].item())
        assert hypothesis.ended == (
            not joint and len(codes[0]) < (2 * source.shape[1] + 10) // 2 + 1
        )
        assert hypothesis.log_probability == pytest.approx(sum(steps), rel=1e-4)


@OUTPUTS
def test_reconstruct_does_not_depend_on_the_batch(make_latent, pairs, output):
    model = make_latent(output=output).eval()
    together = reconstruct(model, *pairs)
    assert together == [reconstruct(model, *pair)[0] for pair in singles(pairs)]


def test_a_sentence_without_codes_and_an_empty_source_translate(make_latent):
    model = make_latent(joint_end=False).eval()
    with torch.no_grad():
        model.code_output.bias[model.end_of_codes] = 100.0
    for source in (torch.tensor([[5, 6], [7, PAD]]), torch.zeros(1, 0, dtype=torch.long)):
        for hypothesis, tokens, spans in generate(model, source):
            assert hypothesis.symbols == spans == []
            assert isinstance(tokens, list)


def test_reconstruct_of_an_empty_target(make_latent, pairs):
    for output in ("ctc", "cross_entropy"):
        model = make_latent(output=output).eval()
        target = pairs[1].clone()
        target[1] = PAD
        assert len(reconstruct(model, pairs[0], target)) == 4
        assert len(reconstruct(model, pairs[0][:1], torch.zeros(1, 0, dtype=torch.long))) == 1


def test_a_row_without_codes_keeps_one_place():
    codes, mask = pad_codes([[3, 1], [], [2]], torch.device("cpu"))
    assert codes.tolist() == [[3, 1], [0, 0], [2, 0]]
    assert mask.tolist() == [[True, True], [True, False], [True, False]]


# --- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"output": "argmax"}, "student.output is 'argmax'"),
        ({"output": "cross_entropy", "upsampling": 2}, "student.upsampling is 2"),
        ({"output": "ctc", "upsampling": 1}, "student.upsampling is 1"),
        ({"gold_mixing": True}, "student.gold_mixing"),
        ({"compression": 9}, "student.compression is 9"),
        ({"compression": -1}, "student.compression is -1"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, named):
    with pytest.raises(VqnmtError, match=named):
        LatentConfig(**settings)


# --- start from a teacher --------------------------------------------------------------------


def test_warm_start_copies_the_teachers_weights(make_latent, make_autoregressive):
    teacher = make_autoregressive(encoder_layers=1, decoder_layers=2)
    student = make_latent(decoder_layers=1)
    compressor = [p.clone() for p in student.compressor.parameters()]
    count = copy_weights(student, teacher)
    kept = [n for n in teacher.state_dict() if n in student.state_dict()]
    assert count == sum(teacher.state_dict()[n].numel() for n in kept)
    for name in kept:
        assert torch.equal(student.state_dict()[name], teacher.state_dict()[name]), name
    assert {"embedding.weight", "encoder.norm.weight"} <= set(kept)
    for before, after in zip(compressor, student.compressor.parameters(), strict=True):
        assert torch.equal(before, after)
    source = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(student.encode(source)[0], teacher.encode(source)[0])


def test_warm_start_from_another_size_names_the_weight(make_latent, make_autoregressive):
    with pytest.raises(VqnmtError, match=r"embedding.weight has shape \(9, 16\)"):
        copy_weights(make_latent(), make_autoregressive(vocabulary_size=9))


# --- the blank in translation ----------------------------------------------------------------


def test_blank_penalty_moves_the_best_path_towards_words(make_latent):
    model = make_latent(output="ctc").eval()
    source, target = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[4, 9, 5, 6]])
    hidden, seen = [], model.embedding.logits
    model.embedding.logits = lambda h: hidden.append(seen(h)) or hidden[-1].clone()
    free = reconstruct(model, source, target)
    (scores,) = hidden  # (1, P, V)
    margin = (scores[..., 0] - scores[..., 1:].amax(dim=-1)).max()
    model.blank_penalty.fill_(margin.item() + 1e-3)  # no position prefers the blank any more
    words = scores[0, :, 1:].argmax(dim=-1) + 1
    assert reconstruct(model, source, target) == [words.unique_consecutive().tolist()]
    assert free == [[t for t in scores[0].argmax(-1).unique_consecutive().tolist() if t]]
    assert torch.equal(model.state_dict()["blank_penalty"], model.blank_penalty)
