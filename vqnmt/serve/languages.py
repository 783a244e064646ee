"""Names of languages, and which language a text is in."""

import functools
import math
from collections.abc import Iterable
from typing import Any

NAMES = {
    **{"ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech"},
    **{"da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish"},
    **{"et": "Estonian", "eu": "Basque", "fa": "Persian", "fi": "Finnish", "fr": "French"},
    **{"ga": "Irish", "gl": "Galician", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian"},
    **{"hu": "Hungarian", "id": "Indonesian", "is": "Icelandic", "it": "Italian"},
    **{"ja": "Japanese", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian", "ms": "Malay"},
    **{"nb": "Norwegian", "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese"},
    **{"ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "sq": "Albanian"},
    **{"sr": "Serbian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "th": "Thai"},
    **{"tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese"},
}
"""In English, as LibreTranslate gives them."""


@functools.cache
def _model() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class Identifier:
    """Tells which of some languages a text is in, by py3langid.

    Args:
        languages: Codes; those that it does not know are left out.

    Raises:
        ImportError: py3langid is not installed.
    """

    def __init__(self, languages: Iterable[str]) -> None:
        self._model = _model()
        self._known = frozenset(languages)

    def detect(self, text: str) -> list[dict[str, float | str]]:
        """Return languages with their confidence from 0 to 100, the best first."""
        ranked = [(code, float(p)) for code, p in self._model.rank(text) if code in self._known]
        total = math.fsum(p for _, p in ranked) or 1.0
        found = [(code, 100 * p / total) for code, p in ranked]
        return [{"confidence": round(p, 1), "language": code} for code, p in found if p >= 1]
