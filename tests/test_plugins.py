"""Quantizers, students and outputs from outside the repository, and what can be wrong with them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from vqnmt import load_translator
from vqnmt.errors import VqnmtError
from vqnmt.evaluation.records import read_records
from vqnmt.models.outputs import OUTPUTS
from vqnmt.models.registry import ARCHITECTURES
from vqnmt.plugins import load_plugins
from vqnmt.quantizers import QuantizerConfig, build_quantizer
from vqnmt.quantizers.config import CONFIGS
from vqnmt.quantizers.registry import QUANTIZERS

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "sign_quantizer.py"
FEW_STEPS = [
    "teacher_training.steps=2",
    "student_training.steps=12",
    "student_training.log_every=6",
    "teacher_training.validate_every=2",
    "student_training.validate_every=12",
    "evaluation.latency_sentences=0",
    "distill=false",
    "warm_start=false",
    "student_model.continuous_start=0.0",
]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Stand in an empty folder; afterwards nothing is registered or imported any more."""
    tables = [CONFIGS, QUANTIZERS, ARCHITECTURES, OUTPUTS]
    before, modules, path = [dict(table) for table in tables], set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run `code` in a process of its own, with the repository on its path."""
    paths = [environment.pop("PYTHONPATH", ""), str(EXAMPLE.parent.parent.parent)]
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_quantizer_in_one_file_trains_scores_and_exports(
    tmp_path: Path, overrides: list[str], script: Callable
) -> None:
    pytest.importorskip("onnxruntime")
    shutil.copy(EXAMPLE, tmp_path)
    outcome = script(
        "train_nmt",
        "run=run",
        *overrides,
        *FEW_STEPS,
        "plugins=[sign_quantizer]",
        "student_model.quantizer.name=signs",
        "student_model.quantizer.beta=0.5",
    )
    assert outcome.status == 0, outcome.err
    assert "signs_ctc_nc3" in {record.system for record in read_records(Path("run/results.json"))}
    pair = ["--source", "run/corpus/valid.en", "--reference", "run/corpus/valid.de"]
    plugin = ["--plugins", "sign_quantizer"]
    outcome = script("evaluate", "--model", "run/student", *pair, *plugin)
    assert outcome.status == 0 and outcome.out.startswith("BLEU"), outcome.err
    outcome = script("export", "--model", "run/student", "--out", "exported", *plugin)
    assert outcome.status == 0, outcome.err
    sources = Path("run/corpus/valid.en").read_text().splitlines()
    before = [t.text for t in load_translator("run/student").translate(sources)]
    assert [t.text for t in load_translator("exported").translate(sources)] == before
    # The folder remembers the module but does not have it imported, even where it is found; an
    # exported folder needs it no more.
    code = f"import vqnmt; print(vqnmt.load_translator({str(tmp_path / 'exported')!r}))"
    assert python(code, tmp_path).stdout.startswith("<OnnxTranslator: ")
    model = str(tmp_path / "run/student")
    code = f"""
import vqnmt
try: vqnmt.load_translator({model!r})
except vqnmt.VqnmtError as error: print(error)
import sign_quantizer
print(vqnmt.load_translator({model!r}))
"""
    refused, loaded = python(code, tmp_path).stdout.splitlines()
    assert "the model needs the plug-in 'sign_quantizer', and no code is run" in refused
    assert loaded.startswith("<Translator: ")


def test_the_example_computes_what_it_says(tmp_path: Path) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    load_plugins(["sign_quantizer"])
    torch.manual_seed(1)
    quantizer = build_quantizer(QuantizerConfig(name="signs", codebook_size=8), 5)
    z = torch.randn(4, 6, 5, requires_grad=True)
    quantized, codes, loss = quantizer(z, torch.ones(4, 6, dtype=torch.bool))
    torch.testing.assert_close(quantized, quantizer.codes_to_vectors(codes))
    assert torch.equal(codes, quantizer.nearest(z)) and len(codes.unique()) > 4
    (quantized.sum() + loss).backward()
    assert z.grad.abs().sum() > 0
    with pytest.raises(VqnmtError, match=r"quantizer\.codebook_size is 9: .*power of two"):
        QuantizerConfig(name="signs", codebook_size=9)
    with pytest.raises(VqnmtError, match=r"quantizer\.gamma is not a key of SignConfig: choose"):
        QuantizerConfig(name="signs", gamma=1.0)


STUDENTS = '''
from dataclasses import dataclass
import torch
from torch import nn
from vqnmt.decode.search import Hypothesis
from vqnmt.models import Losses, register_output, register_student
from vqnmt.models.outputs import Ctc
from vqnmt.models.shared import TiedEmbedding
from vqnmt.tokens import PAD

@register_output("plain_ctc")
class PlainCtc(Ctc):
    """As ctc."""

@dataclass(kw_only=True)
class WordConfig:
    dim: int = 8
    """Width."""

@register_student("words", config=WordConfig)
class Words(nn.Module):
    """Reads token i of the translation off token i of the source."""

    def __init__(self, config, vocabulary_size):
        super().__init__()
        self.config, self.embedding = config, TiedEmbedding(vocabulary_size, config.dim)
        self.linear = nn.Linear(config.dim, config.dim)

    def logits(self, source):
        return self.embedding.logits(self.linear(self.embedding(source)))

    def forward(self, source, target):
        length = min(source.shape[1], target.shape[1])
        labels = self.embedding.known(target[:, :length])
        real = labels != PAD
        loss = nn.functional.cross_entropy(self.logits(source[:, :length])[real], labels[real])
        return Losses(loss, int(real.sum()), {"cross_entropy": loss.detach()})

    def find_translations(self, source, settings):
        best = self.logits(source).argmax(-1)
        return [[Hypothesis(row[keep].tolist(), 0.0)] for row, keep in zip(best, source != PAD)]
'''


@pytest.mark.parametrize(
    ("changes", "system"),
    [
        (["student=words", "plugin_student.dim=6"], "words"),
        (["student_model.output=plain_ctc", "student_model.upsampling=3"], "vq_nc3"),
    ],
)
def test_students_and_outputs(
    tmp_path: Path, overrides: list[str], script: Callable, changes: list[str], system: str
) -> None:
    (tmp_path / "mine.py").write_text(STUDENTS)
    words = ["run=run", *overrides, *FEW_STEPS, "plugins=[mine]"]
    outcome = script("train_nmt", *words, *changes)
    assert outcome.status == 0, outcome.err
    assert read_records(Path("run/results.json"))[-1].system == system
    translator = load_translator("run/student")
    assert len(translator.translate(["ba do", "fi"])) == 2
    if system == "words":
        assert translator.model.config.dim == 6
        outcome = script("train_nmt", *words, "student=words", "plugin_student.dims=6")
        assert "plugin_student.dims is not a known key: did you mean dim?" in outcome.err
    outcome = script("export", "--model", "run/student", "--out", "exported")
    assert outcome.status == 2 and "translate with PyTorch" in outcome.err


def test_installed_packages_name_their_plugins(tmp_path: Path) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    (tmp_path / "signs-1.0.dist-info").mkdir()
    (tmp_path / "signs-1.0.dist-info/METADATA").write_text("Name: signs\nVersion: 1.0\n")
    points = tmp_path / "signs-1.0.dist-info/entry_points.txt"
    points.write_text("[vqnmt.plugins]\nsigns = sign_quantizer\n")
    code = """
from vqnmt.plugins import load_plugins
load_plugins()
from vqnmt.quantizers import QuantizerConfig
print(QuantizerConfig(name="signs"))
"""
    (tmp_path / "elsewhere").mkdir()
    found = python(code, tmp_path / "elsewhere", PYTHONPATH=str(tmp_path))
    assert found.stdout.startswith("SignConfig("), found.stderr
    (tmp_path / "sign_quantizer.py").write_text("import nothing_of_this_name\n")
    found = python(code, tmp_path / "elsewhere", PYTHONPATH=str(tmp_path))
    assert "plug-in signs (sign_quantizer) cannot be imported (ModuleNotFoundError" in found.stderr


HEAD = """
from dataclasses import dataclass
from vqnmt.quantizers import EMAQuantizer, Quantizer, QuantizerConfig, register_quantizer
from vqnmt.models import register_output, register_student

@dataclass(kw_only=True)
class Config(QuantizerConfig):
    pass
"""


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = ", r"SyntaxError: .*bad\.py, line 10\): mend it"),
        ("unknown_name", r"cannot be imported \(NameError: .*bad\.py, line 10\): mend it"),
        ("raise SystemExit(0)", r"\(SystemExit: 0, .*bad\.py, line 10\): mend it"),
        (
            "@register_quantizer('ema', config=Config)\nclass Mine(EMAQuantizer): pass",
            r"the quantizer bad\.Mine registers the name 'ema', which .*\.EMAQuantizer has: give",
        ),
        (
            "@register_quantizer('mine', config=Config)\nclass Mine(Quantizer):\n"
            "  def _assign(self, vectors): pass",
            r"the quantizer bad\.Mine lacks the method _nearest, codes_to_vectors: write",
        ),
        (
            "@register_quantizer('mine', config=Config)\nclass Mine: pass",
            r"bad\.Mine .*: make it a subclass of vqnmt\.quantizers\.Quantizer",
        ),
        (
            "@register_quantizer('mine', config=dict)\nclass Mine(EMAQuantizer): pass",
            "has the config dict: make it a dataclass",
        ),
        (
            "@dataclass(kw_only=True)\nclass Lacking(QuantizerConfig):\n  size: int\n"
            "@register_quantizer('mine', config=Lacking)\nclass Mine(EMAQuantizer): pass",
            r"Lacking\.size has no default: give",
        ),
        (
            "@register_output('mine')\nclass Mine:\n  def labels(self, target): pass",
            r"the output bad\.Mine lacks the method loss, starts: write",
        ),
        (
            "@register_student('mine', config=Config)\nclass Mine:\n  pass",
            r"the student bad\.Mine lacks the method forward, find_translations: write",
        ),
        (
            "from vqnmt.models import LatentTransformer\n@register_student('latent', config=Config)"
            "\nclass Mine(LatentTransformer): pass",
            r"the student bad\.Mine registers the name 'latent', which .* has: give",
        ),
    ],
)
def test_what_cannot_be_registered_is_one_sentence(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "bad.py").write_text(HEAD + "\n" + code + "\n")
    with pytest.raises(VqnmtError, match=rf"^the plug-in bad.*{message}") as caught:
        load_plugins(["bad"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["1 / 0", "import nothing_of_this_name"])
def test_a_broken_package_says_what_is_wrong(tmp_path: Path, monkeypatch, content: str) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text(content)
    (tmp_path / "broken" / "part.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(VqnmtError, match=r"broken\.part cannot be imported .*__init__\.py, line 1"):
        load_plugins(["broken.part"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"plugins names nowhere, but .* folder that holds nowhere\.py"),
        ("no.where", r"plugins names no\.where, but there is no such module"),
        ("./mine.py", r"plugins names '\./mine\.py': give the name of a module"),
        ("", "plugins names ''"),
        ("signal", "plugins names signal, which is a module of Python itself: give your file"),
    ],
)
def test_plugins_that_are_not_there(script: Callable, name: str, message: str) -> None:
    outcome = script("train_nmt", f"plugins=['{name}']", "run=run")
    assert outcome.status == 2 and not Path("run").exists()
    with pytest.raises(VqnmtError, match=message):
        load_plugins([name])


def test_an_unknown_quantizer_names_the_remedy(script: Callable) -> None:
    outcome = script("train_nmt", "student_model.quantizer.name=signs", "run=run")
    assert outcome.status == 2
    assert "student_model.quantizer.name is 'signs': it must be one of" in outcome.err
    assert "plugins=[module]" in outcome.err
