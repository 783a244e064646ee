"""The model that ships: it is there, small, and translates."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import vqnmt

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "pretrained" / "en-de"


def test_size() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) <= 12e6


def test_translations_make_sense() -> None:
    sentences = ["Where is the train station?", "", "Turn off the light in the kitchen."]
    found = [translation.text for translation in vqnmt.load_translator(FOLDER).translate(sentences)]
    assert "Bahnhof" in found[0]
    assert found[1] == ""
    assert "Licht" in found[2] and "Küche" in found[2]


def test_spellings_that_look_alike_and_what_is_no_text(script: Callable) -> None:
    odd = ["The cafe\u0301 is closed", "The ca\u00adf\u00e9 \u200eis\u200b closed"]
    lines = [
        "The caf\u00e9 is closed",
        *odd,
        "...",
        "-",
        "\U0001f642",
        "123",
        "https://a.b/c",
        "a@b.de",
    ]
    found = [translation.text for translation in vqnmt.load_translator(FOLDER).translate(lines)]
    assert found[0] == found[1] == found[2] != lines[0]
    assert found[3:] == lines[3:]
    outcome = script(
        "translate", "--quiet", stdin="".join(f"{line}\r\n" for line in lines).encode()
    )
    assert (outcome.status, outcome.out.splitlines()) == (0, found)


def test_the_script_takes_it_by_default() -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "translate.py"],
        input="How are you today?\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "heute" in result.stdout
