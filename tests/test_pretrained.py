"""The model that ships: it is there, small, and translates."""

import subprocess
import sys
from pathlib import Path

import vqnmt

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "pretrained" / "en-de"


def test_size() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) <= 12e6


def test_translations_make_sense() -> None:
    sentences = ["Where is the train station?", "", "Turn off the light in the kitchen."]
    found = [translation.text for translation in vqnmt.load_translator(FOLDER).translate(sentences)]
    assert "Bahnhof" in found[0]
    assert found[1] == ""
    assert "Licht" in found[2] and "Küche" in found[2]


def test_the_script_takes_it_by_default() -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "translate.py"],
        input="How are you today?\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "heute" in result.stdout
