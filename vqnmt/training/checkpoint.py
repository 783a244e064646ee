"""Checkpoints to resume from and snapshots of weights to average."""

import io
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vqnmt.errors import VqnmtError
from vqnmt.files import atomic_path


class Checkpoints:
    """The checkpoints of one training, `checkpoint-<step>.pt`, and its `weights-<step>`.

    Args:
        folder: Where they stand; made on first save.
        keep: Checkpoints to keep; older ones are removed once a newer one is complete.
        average: Snapshots of weights to keep.
    """

    def __init__(self, folder: Path, keep: int, average: int) -> None:
        self.folder, self.keep, self.average = folder, keep, average

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write `state` completely or not at all, then remove what is too old."""
        buffer = io.BytesIO()  # torch.save to a file would hide the error of a full disk
        torch.save(state, buffer)
        with atomic_path(self._path(step)) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        for old in self._numbered("checkpoint-*.pt")[: -self.keep]:
            old.unlink()

    def load(self) -> dict[str, Any] | None:
        """Return the newest checkpoint's state; None where there is none.

        Raises:
            VqnmtError: The newest checkpoint cannot be read.
        """
        paths = self._numbered("checkpoint-*.pt")
        if not paths:
            return None
        try:
            state: dict[str, Any] = torch.load(paths[-1], map_location="cpu", weights_only=True)
        except Exception as error:
            raise VqnmtError(
                f"{paths[-1]}: not a complete checkpoint ({type(error).__name__}): remove it to "
                "resume from the one before"
            ) from error
        return state

    def snapshot(self, step: int, model: nn.Module) -> None:
        """Write the weights of `model`, and keep the last `average` of such files."""
        with atomic_path(self.folder / f"weights-{step}.safetensors") as temporary:
            temporary.write_bytes(save({k: v.contiguous() for k, v in model.state_dict().items()}))
        for old in self._numbered("weights-*.safetensors")[: -self.average]:
            old.unlink()

    def averaged(self, trained: set[str]) -> dict[str, Tensor]:
        """Average the snapshots: the mean for the names in `trained`, else the newest value.

        A codebook's counts and vectors belong together, so what is not a parameter is not
        averaged.
        """
        paths = self._numbered("weights-*.safetensors")
        if not paths:
            raise VqnmtError(f"{self.folder}: no weights-*.safetensors to average; train first")
        state = load_file(paths[-1])
        for path in paths[:-1]:
            for name, value in load_file(path).items():
                if name in trained:
                    state[name] += value
        for name in trained:
            state[name] /= len(paths)
        return state

    def _path(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step}.pt"

    def _numbered(self, pattern: str) -> list[Path]:
        return sorted(self.folder.glob(pattern), key=lambda p: int(p.stem.split("-")[1]))
