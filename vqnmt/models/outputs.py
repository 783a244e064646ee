"""How output positions become tokens: one position a token, or CTC over more positions.

CTC (Graves et al. 2006) lets a position be blank or repeat its neighbour, so that a code need not
fix the position of every word. `PAD`, which never occurs in text, serves as the blank.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vqnmt.models.shared import append_eos
from vqnmt.quantizers.registry import check_registration
from vqnmt.tokens import EOS, PAD


class Output(Protocol):
    """Loss and reading of tokens from decoder positions."""

    def labels(self, target: Tensor) -> Tensor:
        """Return the tokens that the codes must encode, for `target` (B, T)."""

    def loss(
        self, weight: Tensor, hidden: Tensor, mask: Tensor, target: Tensor
    ) -> tuple[Tensor, int]:
        """Return the mean loss in nats a target token, and the number of target tokens.

        Args:
            weight: Vectors of the pieces that may be written (W, d).
            hidden: Decoder output (B, P, d).
            mask: (B, P), True at real positions.
            target: (B, T).
        """

    def starts(self, best: Tensor, mask: Tensor, repeatable: Tensor) -> Tensor:
        """Mark (B, P) the positions that each write one token, their best piece (B, P).

        Args:
            best: Pieces (B, P).
            mask: (B, P), True at real positions.
            repeatable: (V,), True where a piece may occur twice in a row.
        """


class CrossEntropy:
    """Position i holds token i; EOS ends the sentence."""

    def labels(self, target: Tensor) -> Tensor:
        """The target and its EOS, (B, T + 1)."""
        return append_eos(target)

    def loss(
        self, weight: Tensor, hidden: Tensor, mask: Tensor, target: Tensor
    ) -> tuple[Tensor, int]:
        """Cross-entropy at the positions of the target and its EOS."""
        labels = self.labels(target)
        real = labels != PAD
        chosen = F.linear(hidden[:, : labels.shape[1]][real], weight).float()
        return F.cross_entropy(chosen, labels[real]), int(real.sum())

    def starts(self, best: Tensor, mask: Tensor, repeatable: Tensor) -> Tensor:
        """Read up to the first EOS; repeats stay."""
        return mask & ((best == EOS).cumsum(dim=1) == 0)


class Ctc:
    """Connectionist temporal classification over all positions."""

    def labels(self, target: Tensor) -> Tensor:
        """The target itself: blanks fill the other positions."""
        return target

    def loss(
        self, weight: Tensor, hidden: Tensor, mask: Tensor, target: Tensor
    ) -> tuple[Tensor, int]:
        """Minus the log-probability of all alignments of the target, a target token.

        An alignment uses only the blank and the sentence's own tokens, so the recursion gets only
        their scores: T + 1 classes instead of W.
        """
        target = F.pad(target, (0, int(target.shape[1] == 0)), value=PAD)  # all may be empty
        scores, _, classes = own_scores(weight, hidden, target)  # (B, P, T + 1), _, (B, T)
        logits = F.linear(hidden[mask], weight).float()  # (positions, W)
        # `logsumexp` in place; the function needs two copies and another `exp` in backward.
        most = logits.detach().amax(dim=-1)
        normaliser = most + logits.sub_(most[:, None]).exp_().sum(dim=-1).log()  # (positions,)
        rows = mask.nonzero(as_tuple=True)
        log_p = scores - scores.new_zeros(mask.shape).index_put(rows, normaliser)[..., None]
        lengths = (target != PAD).sum(dim=1)
        loss = F.ctc_loss(
            log_p.transpose(0, 1),
            classes,
            mask.sum(dim=1),
            lengths,
            blank=PAD,
            reduction="none",
            # A target with too many repeats for its positions has no alignment.
            zero_infinity=True,
        )
        # The library's gradient by log p is p minus the posterior, which is right only after a
        # softmax over all classes. Most classes are left out here, so p is subtracted again.
        p = torch.where(mask[..., None] & (loss > 0)[:, None, None], log_p, -torch.inf).exp().sum()
        tokens = max(int(lengths.sum()), 1)  # targets without a piece have a loss too
        return (loss.sum() - (p - p.detach())) / tokens, tokens

    def starts(self, best: Tensor, mask: Tensor, repeatable: Tensor) -> Tensor:
        """Collapse repeats, then drop blanks (the best path, not the best labelling).

        Two separate positions for one word would write it twice with blanks in between, so pieces
        that are not `repeatable` are collapsed across blanks too.
        """
        places = torch.arange(1, best.shape[1] + 1, device=best.device)
        # (B, P): the place, counted from 1, of the last piece up to here; 0 before the first piece
        last = torch.where(best == PAD, 0, places).cummax(dim=1).values
        pieces = F.pad(best, (1, 0), value=PAD)  # (B, P + 1), place 0 a blank
        before = pieces.gather(1, F.pad(last[:, :-1], (1, 0)))  # the last piece before (B, P)
        again = repeatable[best] & (best != pieces[:, :-1])
        return mask & (best != PAD) & ((best != before) | again)


def read(best: Tensor, starts: Tensor) -> list[list[int]]:
    """Return, for each sentence, the best pieces (B, P) that `Output.starts` marks."""
    kept = zip(best.tolist(), starts.tolist(), strict=True)
    return [[token for token, start in zip(*row, strict=True) if start] for row in kept]


def own_classes(target: Tensor) -> tuple[Tensor, Tensor]:
    """Renumber the tokens of each sentence within the sentence.

    Args:
        target: (B, T).

    Returns:
        The token of each class, (B, T + 1), class 0 the blank; and the class of each token,
        (B, T): equal tokens share the class of the first of them, padding has class 0.
    """
    equal = target[:, :, None] == target[:, None, :]  # (B, T, T)
    first = equal.to(torch.int8).argmax(dim=2)  # (B, T): index of the first equal token
    classes = torch.where(target == PAD, 0, first + 1)
    return F.pad(target, (1, 0), value=PAD), classes


def own_scores(weight: Tensor, hidden: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Score the blank and the sentence's own tokens at each position.

    Args:
        weight: Vectors of the pieces (V, d).
        hidden: Decoder output (B, P, d).
        target: (B, T), T 1 or more.

    Returns:
        Logits (B, P, T + 1), fp32; and what `own_classes` returns, (B, T + 1) and (B, T).
    """
    own, classes = own_classes(target)
    # Several threads would sum the gradient of `weight[own]` in random order.
    vectors = F.embedding(own, weight)  # (B, T + 1, d)
    return torch.einsum("bpd,bcd->bpc", hidden, vectors).float(), own, classes


def best_alignment(scores: Tensor, classes: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Find the likeliest CTC alignment of each target (Viterbi over Graves et al. 2006's states).

    Args:
        scores: Of the blank and the sentence's own classes at each position, (B, P, C), up to a
            constant for each position.
        classes: The class of each target token (B, T), 1 to C - 1; padding has class 0.
        mask: (B, P), True at real positions, padded at the end; each row has one at least.

    Returns:
        The class of each position (B, P), 0 for a blank and where the mask is False; and whether
        the target has an alignment at all (B,): it has none with too few positions.
    """
    lengths = (classes > 0).sum(dim=1)  # (B,)
    states = classes.new_zeros(len(classes), 2 * classes.shape[1] + 1)  # blank, token, blank, ...
    states[:, 1::2] = classes
    scores = scores.gather(2, states[:, None].expand(-1, scores.shape[1], -1))  # (B, P, 2T + 1)
    # A token may follow another one without a blank in between.
    jumps = F.pad((states[:, 2:] > 0) & (states[:, 2:] != states[:, :-2]), (2, 0))
    total = scores[:, 0].clone()  # (B, 2T + 1)
    total[:, 2:] = -torch.inf
    moves = []
    for position in range(1, scores.shape[1]):
        one = F.pad(total[:, :-1], (1, 0), value=-torch.inf)
        two = F.pad(total[:, :-2], (2, 0), value=-torch.inf).masked_fill(~jumps, -torch.inf)
        best, move = torch.stack([total, one, two]).max(dim=0)
        real = mask[:, position, None]
        total = torch.where(real, best + scores[:, position], total)
        moves.append(torch.where(real, move, 0))
    # An alignment ends with the last token or with a blank after it.
    ends = torch.stack([2 * lengths, (2 * lengths - 1).clamp(min=0)], dim=1)  # (B, 2)
    most, end = total.gather(1, ends).max(dim=1, keepdim=True)
    state = ends.gather(1, end)  # (B, 1)
    path = [state]
    for move in reversed(moves):
        state = state - move.gather(1, state)
        path.append(state)
    aligned = states.gather(1, torch.cat(path[::-1], dim=1))  # (B, P)
    return aligned.masked_fill(~mask, 0), most[:, 0].isfinite()


OUTPUTS: dict[str, type[Output]] = {"cross_entropy": CrossEntropy, "ctc": Ctc}
"""The outputs by the name that `student_model.output` gives them."""

OutputT = TypeVar("OutputT", bound=Output)


def register_output(name: str) -> Callable[[type[OutputT]], type[OutputT]]:
    """Make an output known under `name`: a class with the methods of `Output`, built without
    arguments.

    Raises:
        VqnmtError: The name is taken, or a method is missing.
    """

    def register(kind: type[OutputT]) -> type[OutputT]:
        missing = [method for method in ("labels", "loss", "starts") if not hasattr(kind, method)]
        check_registration("output", name, kind, OUTPUTS.get(name), missing)
        OUTPUTS[name] = kind
        return kind

    return register
