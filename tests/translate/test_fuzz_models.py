"""Damaged model folders: each loads and translates, or is refused in one sentence."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import attempt, damaged, fuzz, leftovers, like
from vqnmt.checksums import CHECKSUMS
from vqnmt.data.vocabulary import Vocabulary
from vqnmt.errors import VqnmtError
from vqnmt.exporting.folder import export
from vqnmt.layers.transformer import TransformerConfig
from vqnmt.models import (
    AutoregressiveConfig,
    AutoregressiveTransformer,
    CtcConfig,
    CtcTransformer,
    FertilityConfig,
    FertilityTransformer,
    LatentConfig,
    LatentTransformer,
)
from vqnmt.quantizers import QuantizerConfig
from vqnmt.settings import to_flat
from vqnmt.translate.base import BatchTranslator
from vqnmt.translate.loading import load_translator
from vqnmt.translate.pytorch import MODEL_FILES, Translator

SENTENCES = ["the light is on", "", "ä 光 {name}"]
SIZE = TransformerConfig(dim=8, feedforward=8, heads=2)
NAMES = ("autoregressive", "latent", "ctc", "fertility")


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    lines = [f"the light {i} of room {i % 7} is on" for i in range(200)]
    return Vocabulary.train(lines, 290)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> Path:
    """Return a folder of untrained model folders."""
    torch.manual_seed(1)
    quantizer = QuantizerConfig(codebook_size=4, initialisation="normal")
    built = {
        "autoregressive": AutoregressiveTransformer(
            AutoregressiveConfig(transformer=SIZE, encoder_layers=1, decoder_layers=1),
            len(vocabulary),
        ),
        "latent": LatentTransformer(
            LatentConfig(transformer=SIZE, quantizer=quantizer, encoder_layers=1, decoder_layers=1),
            len(vocabulary),
        ),
        "ctc": CtcTransformer(
            CtcConfig(transformer=SIZE, encoder_layers=1, decoder_layers=1), len(vocabulary)
        ),
        "fertility": FertilityTransformer(
            FertilityConfig(transformer=SIZE, encoder_layers=1, decoder_layers=1, max_fertility=3),
            len(vocabulary),
        ),
    }
    folder = tmp_path_factory.mktemp("models")
    for name, model in built.items():
        Translator(model, vocabulary, "en", "de").save_pretrained(folder / name, "a card")
    return folder


def load_and_translate(folder: Path) -> Translator | VqnmtError:
    loaded = attempt(Translator.from_pretrained, folder)
    assert leftovers(folder) == []
    if isinstance(loaded, VqnmtError):
        assert str(folder) in str(loaded)
        return loaded
    found = attempt(loaded.translate, SENTENCES)
    if not isinstance(found, VqnmtError):
        assert len(found) == len(SENTENCES)
        assert all(isinstance(translation.text, str) for translation in found)
    return loaded


@pytest.mark.parametrize("name", NAMES)
def test_whole_folders_translate(models: Path, name: str) -> None:
    assert isinstance(load_and_translate(models / name), Translator)


@fuzz(100)
@given(data=st.data(), name=st.sampled_from(NAMES), file=st.sampled_from(MODEL_FILES))
def test_damaged_files(models: Path, data: st.DataObject, name: str, file: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / name
        shutil.copytree(models / name, folder)
        (folder / CHECKSUMS).unlink()
        content = data.draw(damaged((folder / file).read_bytes()))
        if content is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(content)
        found = load_and_translate(folder)
        if not content:
            assert isinstance(found, VqnmtError)


@fuzz(100)
@given(data=st.data(), name=st.sampled_from(NAMES))
def test_config_json_of_other_values(models: Path, data: st.DataObject, name: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / name
        shutil.copytree(models / name, folder)
        (folder / CHECKSUMS).unlink()
        config = json.loads((folder / "config.json").read_text())
        for key in data.draw(st.lists(st.sampled_from(sorted(to_flat(config))), max_size=2)):
            *groups, last = key.split(".")
            group = config
            for inner in groups:
                group = group[inner]
            if data.draw(st.integers(0, 4)) == 0:
                group.pop(last, None)
            else:
                group[last] = data.draw(like(group.get(last)))
        if data.draw(st.integers(0, 9)) == 0:
            config[data.draw(st.text(max_size=5))] = data.draw(like(None))
        (folder / "config.json").write_text(json.dumps(config))
        load_and_translate(folder)


# --- exports ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exports(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of exports without checksums: what is behind them is tested."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("ctranslate2")
    folder = tmp_path_factory.mktemp("exports")
    for name in ("latent", "autoregressive"):
        export(models / name, folder / name, "int8")
        (folder / name / CHECKSUMS).unlink()
    return folder


def load_and_translate_export(folder: Path, config: object) -> BatchTranslator | VqnmtError:
    """Load an export with another config.json, and translate if it loads."""
    (folder / "config.json").write_text(json.dumps(config))
    loaded = attempt(load_translator, folder, threads=1)
    if isinstance(loaded, VqnmtError):
        assert str(folder) in str(loaded)
    else:
        attempt(loaded.translate, SENTENCES, beam=2)
    return loaded


GONE = object()
# No value of these is of the right type and in range.
WRONG: dict[str, list[object]] = {
    "precision": [GONE, None, 8, "int4", ["int8"]],
    "source_language": [GONE, None, 5, "", "e\nn", "\ud800", ["en"], "e" * 10**6],
    "target_language": [GONE, None, {}, "\0"],
    "max_source_tokens": [GONE, None, 0, -1, 2.5, "60", True, 2**40, 10**400, float("nan")],
    "compression": [GONE, None, -1, 17, 10**6, 2**62, "x", 3.5, True, [3], float("inf")],
    "positions_per_code": [GONE, None, 0, -16, 15, "x", 2**62, 1.5, [], float("nan")],
    "output": [GONE, None, 1, "tokens", ["ctc"], {"ctc": 1}],
    "joint_end": [GONE, None, 1, "true"],
    "blank_penalty": [GONE, "x", True, [], float("nan"), float("inf"), -float("inf"), 1e300],
    "repeatable": [GONE, None, 5, "x", True, {}, [1.5], ["x"], [None], [-1], [2**62], [[1]]],
}


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key, values in WRONG.items() for value in values],
    ids=lambda x: "GONE" if x is GONE else ascii(x)[:20],
)
def test_wrong_values_of_an_export_are_refused_by_name(
    exports: Path, tmp_path: Path, key: str, value: object
) -> None:
    folder = shutil.copytree(exports / "latent", tmp_path / "export")
    config = json.loads((folder / "config.json").read_text()) | {key: value}
    if value is GONE:
        del config[key]
    found = load_and_translate_export(folder, config)
    assert isinstance(found, VqnmtError) and f"config.json: {key}" in str(found)


@fuzz(60)
@given(data=st.data(), name=st.sampled_from(["latent", "autoregressive"]))
def test_exports_of_other_values(exports: Path, data: st.DataObject, name: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = shutil.copytree(exports / name, Path(scratch) / name)
        config = json.loads((folder / "config.json").read_text())
        for key in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=2)):
            config[key] = data.draw(like(config[key]))
        load_and_translate_export(folder, config)


def test_a_config_of_another_graph_ends_in_a_sentence(exports: Path, tmp_path: Path) -> None:
    """Values that are right by themselves: the graph has fewer codes, and fewer positions."""
    folder = shutil.copytree(exports / "latent", tmp_path / "export")
    config = json.loads((folder / "config.json").read_text())
    for compression in (0, 1, 4, 16):
        for upsampling in (1, 64):
            positions = 2**compression * upsampling
            other = {"compression": compression, "positions_per_code": positions}
            load_and_translate_export(folder, config | other)


@fuzz(40)
@given(names=st.lists(st.sampled_from(NAMES), min_size=3, max_size=3))
def test_files_of_different_models(models: Path, names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for file, name in zip(MODEL_FILES, names, strict=True):
            shutil.copy(models / name / file, folder / file)
        found = load_and_translate(folder)
        assert isinstance(found, Translator) == (names[0] == names[1])


@fuzz(300)
@given(content=st.data())
def test_vocabulary_of_any_bytes(models: Path, vocabulary: Vocabulary, content) -> None:
    model = (models / "latent" / "spm.model").read_bytes()
    found = attempt(Vocabulary, content.draw(damaged(model)) or b"")
    if isinstance(found, Vocabulary):
        rows = found.encode(SENTENCES)
        assert all(0 <= index < len(found) for row in rows for index in row)
        rows += [[index] for index in range(len(found))]
        assert all(isinstance(text, str) for text in found.decode(rows))
