"""The autoregressive Transformer: loss, score, search over its cached steps, learning."""

import itertools

import pytest
import torch
from torch import Tensor

from tests.models.searching import generate
from vqnmt.decode.search import SearchSettings, find_candidates
from vqnmt.tokens import BOS, EOS, PAD, UNK


def real(row: Tensor) -> list[int]:
    return [t for t in row.tolist() if t != PAD]


def step_log_probabilities(model, source: list[int], target: list[int]) -> list[float]:
    """log p of each target token and the end, by cached steps for one sentence alone."""
    state = model.decoder.start(*model.encode(torch.tensor([source])))
    found, last = [], BOS
    for token in [*target, EOS]:
        found.append(model.step(torch.tensor([last]), state).log_softmax(-1)[0, token].item())
        last = token
    return found


@pytest.mark.parametrize("written", [12, 7])
def test_score_is_the_sum_of_the_steps(make_autoregressive, pairs, written):
    model = make_autoregressive().eval()
    model.embedding.written = written
    scores = model.score(*pairs)
    assert scores.shape == (4,)
    for score, source, target in zip(scores.tolist(), *pairs, strict=True):
        known = [token if token < written else UNK for token in real(target)]
        steps = step_log_probabilities(model, real(source), known)
        assert score == pytest.approx(sum(steps), rel=1e-4)


def test_score_of_an_empty_target_is_that_of_its_end(make_autoregressive):
    model, source = make_autoregressive().eval(), torch.tensor([[5, 6], [7, PAD]])
    scores = model.score(source, torch.tensor([[PAD], [8]]))
    expected = step_log_probabilities(model, [5, 6], [])
    assert scores[0].item() == pytest.approx(expected[0], rel=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_label_smoothed_cross_entropy(make_autoregressive, pairs, smoothing):
    model = make_autoregressive(label_smoothing=smoothing).eval()
    losses = model(*pairs)
    steps, uniform = [], []
    for source, target in zip(*pairs, strict=True):
        state = model.decoder.start(*model.encode(torch.tensor([real(source)])))
        last = BOS
        for token in [*real(target), EOS]:
            log_p = model.step(torch.tensor([last]), state).log_softmax(-1)[0]
            steps.append(log_p[token].item())
            uniform.append(log_p.mean().item())
            last = token
    plain = -sum(steps) / len(steps)
    smoothed = (1 - smoothing) * plain - smoothing * sum(uniform) / len(uniform)
    assert losses.tokens == len(steps)
    assert losses.terms["cross_entropy"].item() == pytest.approx(plain, rel=1e-4)
    assert losses.total.item() == pytest.approx(smoothed, rel=1e-4)


def test_padding_a_batch_changes_no_loss_and_no_score(make_autoregressive, pairs):
    model = make_autoregressive().eval()
    wider = tuple(torch.nn.functional.pad(x, (0, 3)) for x in pairs)
    torch.testing.assert_close(model(*wider).total, model(*pairs).total)
    torch.testing.assert_close(model.score(*wider), model.score(*pairs))


@pytest.mark.parametrize("beam", [1, 4])
def test_a_batch_translates_as_its_sentences_do(make_autoregressive, pairs, beam):
    model = make_autoregressive().eval()
    together = generate(model, pairs[0], beam)
    for found, source in zip(together, pairs[0], strict=True):
        (alone,) = generate(model, torch.tensor([real(source)]), beam)
        assert found.symbols == alone.symbols
        assert found.log_probability == pytest.approx(alone.log_probability, rel=1e-4)


def test_greedy_takes_the_best_allowed_piece_of_each_step(make_autoregressive, pairs):
    model = make_autoregressive().eval()
    for found, source in zip(generate(model, pairs[0]), pairs[0], strict=True):
        state = model.decoder.start(*model.encode(torch.tensor([real(source)])))
        tokens, last = [], BOS
        while len(tokens) < 2 * len(real(source)) + 10:
            logits = model.step(torch.tensor([last]), state)[0]
            logits[[PAD, BOS]] = -torch.inf
            if (last := logits.argmax().item()) == EOS:
                break
            tokens.append(last)
        assert found.symbols == tokens


def test_an_empty_source_can_be_translated(make_autoregressive):
    model = make_autoregressive().eval()
    (found,) = generate(model, torch.zeros(1, 0, dtype=torch.long))
    assert len(found.symbols) <= 10


def test_wide_beam_finds_the_best_translation_by_the_full_forward(make_autoregressive):
    # The reordered cache against a full forward of every one of the 1 + 5 + 25 + 125 sequences.
    model = make_autoregressive(vocabulary_size=8).eval()
    source, allowed = torch.tensor([[5, 6, 7], [4, PAD, PAD]]), [t for t in range(8) if t > EOS]
    with torch.no_grad():
        found = find_candidates(
            model.step,
            model.decoder.start(*model.encode(source)),
            torch.tensor([3, 3]),
            begin=BOS,
            end=EOS,
            settings=SearchSettings(beam=200, length_penalty=0.0),
            forbidden=(PAD, BOS),
        )
        for row in range(2):
            best = (-torch.inf, [])
            for sequence in itertools.product(allowed, repeat=3):
                state = model.decoder.start(*model.encode(torch.tensor([real(source[row])])))
                inputs = model.embedding(torch.tensor([[BOS, *sequence]]))
                logits = model.embedding.logits(model.decoder(inputs, state, None, True))[0]
                logits[:, [PAD, BOS]] = -torch.inf
                log_p = logits.log_softmax(-1)
                steps = log_p[range(3), list(sequence)].cumsum(0).tolist()
                ends = log_p[:, EOS].tolist()
                best = max(best, (ends[0], []))
                best = max(best, (steps[0] + ends[1], list(sequence[:1])))
                best = max(best, (steps[1] + ends[2], list(sequence[:2])))
                best = max(best, (steps[2], list(sequence)))  # cut at the limit
            assert found[row][0].symbols == best[1]
            assert found[row][0].log_probability == pytest.approx(best[0], rel=1e-4)


def test_learns_eight_pairs_by_heart(make_autoregressive):
    model = make_autoregressive(label_smoothing=0.0)
    source, target = torch.randint(4, 12, (8, 5)), torch.randint(4, 12, (8, 6))
    target[::2, 4:] = PAD
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        model(source, target).total.backward()
        optimizer.step()
    model.eval()
    for beam in (1, 4):
        found = [hypothesis.symbols for hypothesis in generate(model, source, beam)]
        assert found == [real(row) for row in target]
