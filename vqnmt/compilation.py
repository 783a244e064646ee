"""Models compiled by `torch.compile`; on a GPU their kernels are launched as CUDA graphs."""

import copy
from typing import Any

import torch
import torch._dynamo.config as dynamo
import torch._inductor.config as inductor
from torch import nn

from vqnmt.errors import VqnmtError
from vqnmt.models import AutoregressiveTransformer, LatentTransformer
from vqnmt.models.tokens import UNK

# What maps tensors to tensors. The search between them, and the reading of tokens, stay Python.
_PARTS = ("encode", "step", "best_pieces", "likely_pieces")
# Size 1 is compiled by itself, all larger ones together: as one size, where two of a call agree.
_LENGTHS, _STEPS = (1, 7), 3


def compiled_copy(model: nn.Module) -> Any:
    """Copy `model`, weights shared, with its parts compiled for greedy search of one sentence.

    Sizes that vary are symbols of the compiled code, so that a new length compiles nothing. A
    CUDA graph has fixed sizes: each new length is recorded once, when it first comes.

    Args:
        model: An `AutoregressiveTransformer` or a `LatentTransformer`, in evaluation mode, where
            it shall run.

    Raises:
        VqnmtError: The model is of another kind, or cannot be compiled on this machine.
    """
    if not isinstance(model, AutoregressiveTransformer | LatentTransformer):
        raise VqnmtError(
            "only latent and autoregressive models can be compiled: load this one without"
        )
    dynamo.recompile_limit = 64  # all loaded models together; behind it Python runs, and a warning
    compiled: Any = copy.copy(model)
    options: dict[str, Any] = {"dynamic": True}
    if model.embedding.weight.is_cuda:
        options["mode"] = "reduce-overhead"
        # It warns of more than eight sizes; a language has more lengths than that.
        inductor.triton.cudagraph_dynamic_shape_warn_limit = None
    for name in filter(lambda name: hasattr(model, name), _PARTS):
        setattr(compiled, name, torch.compile(getattr(model, name), **options))
    encode = compiled.encode

    def begin(source: torch.Tensor) -> Any:
        # All that is called up to the next sentence reads what CUDA graphs have left in place.
        torch.compiler.cudagraph_mark_step_begin()
        return encode(source)

    compiled.encode = begin
    device = model.embedding.weight.device
    sources = [torch.full((1, length), UNK, device=device) for length in _LENGTHS]
    try:
        _warm_up(compiled, sources)
    except Exception as error:  # compilers fail in many ways
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise VqnmtError(
            f"the model cannot be compiled here ({reason}): install a C++ compiler, and Triton "
            "for a GPU, or load the model without compile"
        ) from error
    return compiled


@torch.inference_mode()
def _warm_up(model: Any, sources: list[torch.Tensor]) -> None:
    """Call every part with sizes of each kind, so that greedy translation compiles no more."""
    latent = isinstance(model, LatentTransformer)
    for source in sources:
        memory, mask = model.encode(source)
        if latent:
            codes = torch.zeros_like(source)  # (1, L)
            model.best_pieces(codes, codes == 0, memory, mask)
            if model.language_model is not None:
                model.likely_pieces(codes, codes == 0, memory, mask)
    state = (model.predictor if latent else model.decoder).start(memory, mask)
    symbols = torch.zeros(1, dtype=torch.long, device=memory.device)
    for _ in range(_STEPS):
        model.step(symbols, state)
