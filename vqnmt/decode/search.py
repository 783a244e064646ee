"""Greedy search, beam search and sampling over any step function: tokens or codes.

All models use this implementation, so that two systems differ in their models only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from vqnmt.decode.settings import SearchSettings

__all__ = ["Hypothesis", "SearchSettings", "SearchState", "find_candidates"]


class SearchState(Protocol):
    """What a step function keeps between steps, one row for each hypothesis."""

    def expand(self, hypotheses: int) -> None:
        """Give each sentence this many neighbouring rows; before the first step."""

    def select(self, index: Tensor) -> None:
        """Keep the rows `index`; of an expanded sentence all, or none."""

    def reorder(self, index: Tensor) -> None:
        """Move rows among hypotheses of the same sentence."""


StateT = TypeVar("StateT", bound=SearchState)


@dataclass(slots=True)
class Hypothesis:
    """A finished sequence.

    Attributes:
        symbols: Tokens or codes, without begin and end.
        log_probability: Its log-probability in nats, the end included where it was reached.
        ended: Whether an end of its own was reached; it is a symbol too.
    """

    symbols: list[int]
    log_probability: float
    ended: bool = False

    @property
    def length(self) -> int:
        """Symbols that `log_probability` is the sum over, the end among them."""
        return len(self.symbols) + self.ended

    def score(self, length_penalty: float) -> float:
        """Return log-probability / length ** `length_penalty`."""
        return self.log_probability / max(self.length, 1) ** length_penalty


@dataclass(frozen=True, slots=True)
class _Task(Generic[StateT]):
    """What is searched; for the fields see `find_candidates`."""

    step: Callable[[Tensor, StateT], Tensor]
    state: StateT
    limits: Tensor
    begin: int
    end: int
    forbidden: Sequence[int]
    joint: bool

    def log_probabilities(self, symbols: Tensor) -> Tensor:
        """Make a step from the last symbols (N,); returns log-probabilities (N, V)."""
        logits = self.step(symbols, self.state)
        if self.forbidden:  # on a copy: the logits are the step function's
            index = torch.tensor(self.forbidden, device=logits.device)
            logits = logits.index_fill(1, index, -torch.inf)
        return logits.float().log_softmax(dim=-1)

    def ends(self, symbols: Tensor) -> Tensor:
        """Mark the symbols that end a sequence."""
        return symbols >= self.end if self.joint else symbols == self.end


def find_candidates(
    step: Callable[[Tensor, StateT], Tensor],
    state: StateT,
    limits: Tensor,
    *,
    begin: int,
    end: int,
    settings: SearchSettings,
    forbidden: Sequence[int] = (),
    joint: bool = False,
) -> list[list[Hypothesis]]:
    """Find sequences of high probability for each of B sentences, or draw them.

    Args:
        step: Maps the last symbols (N,) and the state to logits (N, V) for the next symbols.
        state: Starts with one row a sentence.
        limits: The most symbols for each sentence, (B,); a sequence that reaches its limit
            is taken as it stands.
        begin: The symbol before the first.
        end: The symbol that closes a sequence.
        settings: How to search or sample.
        forbidden: Symbols that are never chosen.
        joint: Whether a sequence has no end of its own, but the symbol `end` + s says that the
            symbol s is the last. At its limit a sequence takes such a one.

    Returns:
        For each sentence its candidates. From a search the best come first, and there are fewer
        than wanted where no more exist within the limit. Samples come in the order drawn; equal
        ones may be among them, and their log-probabilities are those of the model itself, whatever
        the temperature.
    """
    task = _Task(step, state, limits, begin, end, forbidden, joint)
    if settings.temperature is not None:
        return _sample(task, settings.candidates, settings.temperature)
    beam = max(settings.beam, settings.candidates)
    if beam == 1:
        return [[hypothesis] for hypothesis in _one_by_one(task, limits, _best)]
    found = _beam_search(task, beam, settings.length_penalty)
    return [hypotheses[: settings.candidates] for hypotheses in found]


def _sample(task: _Task[StateT], count: int, temperature: float) -> list[list[Hypothesis]]:
    """Draw `count` sequences for each sentence by p ** (1 / temperature), symbol by symbol."""
    limits = task.limits
    rows = torch.arange(len(limits), device=limits.device).repeat_interleave(count)
    task.state.select(rows)

    def draw(log_p: Tensor) -> Tensor:
        weights = (log_p / temperature).softmax(dim=-1)
        return torch.multinomial(weights, 1)[:, 0]

    drawn = _one_by_one(task, limits[rows], draw)
    return [drawn[i : i + count] for i in range(0, len(drawn), count)]


def _best(log_p: Tensor) -> Tensor:
    return log_p.max(dim=-1).indices  # faster on CPU than `argmax`


def _one_by_one(
    task: _Task[StateT], limits: Tensor, choose: Callable[[Tensor], Tensor]
) -> list[Hypothesis]:
    """Extend one sequence a row by what `choose` picks from log-probabilities (N, V).

    `limits` (N,) are those of the rows that the state begins with.
    """
    hypotheses = [Hypothesis([], 0.0) for _ in range(len(limits))]
    bounds = limits.tolist()
    rows = list(range(len(limits)))  # the sentence that each row of the state belongs to
    symbols = torch.full_like(limits, task.begin)
    while rows:
        log_p = task.log_probabilities(symbols)
        if task.joint:
            length = len(hypotheses[rows[0]].symbols) + 1  # of all
            log_p[_at(rows, bounds, length), : task.end] = -torch.inf
        symbols = choose(log_p)  # (N,)
        values = log_p.gather(1, symbols[:, None])[:, 0]
        going = []
        for i, (symbol, value) in enumerate(zip(symbols.tolist(), values.tolist(), strict=True)):
            hypothesis = hypotheses[rows[i]]
            hypothesis.log_probability += value
            if task.joint and symbol >= task.end:
                hypothesis.symbols.append(symbol - task.end)
            elif symbol == task.end:
                hypothesis.ended = True
            else:
                hypothesis.symbols.append(symbol)
                if len(hypothesis.symbols) < bounds[rows[i]]:
                    going.append(i)
        if len(going) < len(rows):
            rows = [rows[i] for i in going]
            if rows:
                index = torch.tensor(going, device=symbols.device)
                task.state.select(index)
                symbols = symbols[index]
    return hypotheses


def _at(rows: list[int], bounds: list[int], length: int) -> Tensor:
    """Mark the rows whose sequence reaches its limit with `length` symbols, (N,)."""
    return torch.tensor([bounds[row] == length for row in rows], dtype=torch.bool)


def _best_of_both(totals: Tensor, end: int, beam: int) -> tuple[Tensor, Tensor]:
    """Take the `beam` best symbols of `totals` (N, beam, V) that go on, and as many that end.

    Returns:
        Their totals, falling, and their indices among beam * V, both (N, 2 * beam).
    """
    found, places = zip(
        *(half.flatten(1).topk(beam, dim=1) for half in totals.split(end, dim=2)), strict=True
    )
    columns = [places[i] // end * 2 * end + i * end + places[i] % end for i in (0, 1)]
    values, order = torch.cat(found, dim=1).sort(dim=1, descending=True, stable=True)
    return values, torch.cat(columns, dim=1).gather(1, order)


def _beam_search(task: _Task[StateT], beam: int, length_penalty: float) -> list[list[Hypothesis]]:
    """Find up to `beam` sequences for each sentence by beam search, the best first."""
    limits, end, joint = task.limits, task.end, task.joint
    device, bounds = limits.device, limits.tolist()
    finished: list[list[Hypothesis]] = [[] for _ in bounds]
    rows = list(range(len(bounds)))  # sentences still open; each has `beam` rows in the state
    task.state.expand(beam)
    symbols = torch.full((len(rows) * beam,), task.begin, device=device)
    # The hypotheses of a sentence start alike: only the first may branch at the first step.
    scores = torch.full((len(rows), beam), -torch.inf, device=device)
    scores[:, 0] = 0.0
    history = torch.zeros(len(rows), beam, 0, dtype=torch.long, device=device)

    while rows:
        log_p = task.log_probabilities(symbols)
        vocabulary = log_p.shape[1]
        totals = scores[..., None] + log_p.view(len(rows), beam, vocabulary)
        length = history.shape[2] + 1
        if joint:
            totals[_at(rows, bounds, length), :, :end] = -torch.inf
            values, flat = _best_of_both(totals, end, beam)
        else:
            # Twice as many as needed: at most `beam` of them can be ends, so `beam` go on.
            values, flat = totals.flatten(1).topk(min(2 * beam, beam * vocabulary), dim=1)
        parents, nexts = flat // vocabulary, flat % vocabulary
        ends = task.ends(nexts) & (values > -torch.inf)
        # An end counts when it is among the `beam` best, as a hypothesis of equal rank would.
        for row, column in ends[:, :beam].nonzero().tolist():
            tokens = history[row, parents[row, column]].tolist()
            if joint:
                tokens.append(nexts[row, column].item() - end)
            finished[rows[row]].append(Hypothesis(tokens, values[row, column].item(), not joint))
        order = ends.to(torch.int8).argsort(dim=1, stable=True)[:, :beam]  # others, best first
        scores, parents, nexts = (x.gather(1, order) for x in (values, parents, nexts))
        # Where fewer than `beam` go on: no hypothesis, and a symbol that `step` can take.
        none = task.ends(nexts)
        scores = scores.masked_fill(none, -torch.inf)
        nexts = torch.where(none, nexts[:, :1], nexts)
        history = torch.cat(
            [history.gather(1, parents[..., None].expand(-1, -1, length - 1)), nexts[..., None]], 2
        )
        base = torch.arange(len(rows), device=device)[:, None] * beam
        moved = (base + parents).flatten()
        going = []
        for i, row in enumerate(rows):
            if len(finished[row]) >= beam:
                # Goes on while a hypothesis is better, at its present length, than all ended.
                best = max(hypothesis.score(length_penalty) for hypothesis in finished[row])
                if best >= scores[i, 0].item() / length**length_penalty:
                    continue
            if not torch.isfinite(scores[i, 0]):
                continue
            if length >= bounds[row]:  # cut at the limit: taken as it stands
                for j in range(int(torch.isfinite(scores[i]).sum())):  # in order, the best first
                    finished[row].append(Hypothesis(history[i, j].tolist(), scores[i, j].item()))
                continue
            going.append(i)
        if len(going) < len(rows):
            rows = [rows[i] for i in going]
            if not rows:
                break
            kept = torch.tensor(going, device=device)
            scores, nexts, history = scores[kept], nexts[kept], history[kept]
            task.state.select(moved.view(-1, beam)[kept].flatten())
        else:
            task.state.reorder(moved)
        symbols = nexts.flatten()
    for hypotheses in finished:
        # Stable: of equal hypotheses the first stays first.
        hypotheses.sort(key=lambda one: -one.score(length_penalty))
    return [hypotheses[:beam] for hypotheses in finished]
