"""Teachers from elsewhere: any sequence-to-sequence checkpoint that transformers loads."""

from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from vqnmt.errors import VqnmtError
from vqnmt.progress import Progress
from vqnmt.translator import Translation


class ForeignTranslator:
    """A transformers checkpoint behind the interface of our own `Translator`.

    Args:
        name: A folder, or a name on the Hub.
        batch_size: Sentences translated at a time.

    Raises:
        VqnmtError: The checkpoint cannot be loaded.
    """

    def __init__(self, name: str, batch_size: int = 32) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            self.model = AutoModelForSeq2SeqLM.from_pretrained(name).to(device).eval()
        except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise VqnmtError(
                f"teacher={name}: transformers cannot load it as a sequence-to-sequence model "
                f"({first}): give teacher=own, a folder or a name on the Hub"
            ) from error
        self.name, self.batch_size = name, batch_size
        # Models with relative or computed positions have no such limit.
        self.max_source_tokens = getattr(self.model.config, "max_position_embeddings", None)

    @torch.inference_mode()
    def translate(
        self, sentences: Sequence[str], *, beam: int = 1, progress: Progress | None = None
    ) -> list[Translation]:
        """Translate `sentences`, in order; an empty one stays empty.

        Raises:
            VqnmtError: Sources are longer than the model takes.
        """
        translations = [Translation("") for _ in sentences]
        order = [i for i, sentence in enumerate(sentences) if sentence.strip()]
        rows = self.tokenizer([sentences[i] for i in order])["input_ids"] if order else []
        # A batch holds sources of one length: its limit is each one's own, and nothing is padded.
        by_length: dict[int, list[tuple[int, list[int]]]] = {}
        for i, row in zip(order, rows, strict=True):
            by_length.setdefault(len(row), []).append((i, row))
        batches = [
            same[start : start + self.batch_size]
            for _, same in sorted(by_length.items())
            for start in range(0, len(same), self.batch_size)
        ]
        for batch in batches:
            indices = [i for i, _ in batch]
            source = torch.tensor([row for _, row in batch], device=self.model.device)  # (B, S)
            length = source.shape[1]
            if self.max_source_tokens is not None and length > self.max_source_tokens:
                raise VqnmtError(
                    f"teacher={self.name}: a source has {length} tokens and the model takes "
                    f"{self.max_source_tokens}: lower corpus.max_words"
                )
            output = self.model.generate(
                input_ids=source,
                attention_mask=torch.ones_like(source),
                num_beams=beam,
                do_sample=False,
                max_new_tokens=2 * length + 10,
            )
            texts = self.tokenizer.batch_decode(output, skip_special_tokens=True)
            for i, text in zip(indices, texts, strict=True):
                translations[i] = Translation(" ".join(text.split()))
            if progress is not None:
                progress.update(len(indices))
        return translations
