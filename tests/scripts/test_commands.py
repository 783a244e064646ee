"""`vqnmt COMMAND`: what it finds, Hydra's options, and how fast it starts."""

import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

from vqnmt.commands.command_line import load_config
from vqnmt.commands.main import COMMANDS

import pytest

import vqnmt
from vqnmt.commands import hydra_options
from vqnmt.errors import VqnmtError
from vqnmt.pipeline import PipelineConfig
from vqnmt.settings import from_mapping

ROOT = Path(__file__).parent.parent.parent


def command(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vqnmt", *arguments],
        cwd=options.pop("cwd", ROOT),
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_help_and_version_name_every_command() -> None:
    shown = command().stdout
    assert shown == command("--help").stdout == command("help").stdout
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", shown, re.MULTILINE)
    assert command("--version").stdout == f"vqnmt {vqnmt.__version__}\n"


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("trian", "did you mean train?"),
        ("translte", "did you mean translate?"),
        ("Turn it on", "to translate words, pipe them in: echo 'Turn it on' | vqnmt translate"),
        ("größe", "choose among train, translate"),
        ("--nosuch", "choose among train"),
        ("corpus=multi30k", "choose among train"),
    ],
)
def test_an_unknown_command_is_one_sentence(word: str, remedy: str) -> None:
    result = command(word)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith(f"error: '{word}' is not a command of vqnmt: {remedy}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["translate", "--help"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['vqnmt', *{arguments}]\n"
        "from vqnmt.commands.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'hydra', 'omegaconf', 'accelerate', 'matplotlib'}\n"
        "heavy |= {'onnxruntime'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: vqnmt {' '.join(arguments[:-1])}")


def test_translate_reads_and_writes_as_its_script_does(script: Callable) -> None:
    text = "Turn on the light\n\nOpen the door\n"
    found = command("translate", "--quiet", input=text)
    assert found.returncode == 0 and found.stderr == ""
    assert found.stdout == script("translate", "--quiet", stdin=text.encode()).out


def test_what_an_extra_brings_is_named_where_it_is_missing(script: Callable) -> None:
    for name, package, extra in (
        ("train_nmt", "hydra", "train"),
        ("train_image", "accelerate", "train"),
        ("evaluate", "sacrebleu", "train"),
    ):
        hidden = {key: None for key in sys.modules if key.split(".")[0] == package}
        ours = [key for key in sys.modules if key.startswith(f"vqnmt.commands.{name}")]
        with mock.patch.dict(sys.modules, {package: None, **hidden}):
            for key in [*ours, "vqnmt.commands.evaluate", "vqnmt.evaluation.scores"]:
                sys.modules.pop(key, None)
            outcome = script(name, "--source", "x") if name == "evaluate" else script(name)
        assert outcome.status == 2
        assert outcome.err == f"error: this needs {package}: pip install 'vqnmt[{extra}]'\n"


# --- Hydra's options -------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Return a folder of configurations outside the repository."""
    folder = tmp_path / "my configs, ä"
    (folder / "quantizer").mkdir(parents=True)
    text = "# @package student_model.quantizer\nname: ema\ncodebook_size: 77\n"
    (folder / "quantizer" / "mine.yaml").write_text(text, encoding="utf-8")
    return folder


def test_configurations_from_outside_the_repository(mine: Path) -> None:
    folder = f"--config-dir={mine}"
    values = load_config("train_nmt", [folder, "quantizer=mine"])
    assert from_mapping(PipelineConfig, values).student_model.quantizer.codebook_size == 77
    assert load_config("train_nmt", [folder, "quantizer=soft_em"])["seed"] == 1
    with pytest.raises(VqnmtError, match=r"^quantizer=mime is not .*did you mean mine\?$"):
        load_config("train_nmt", [folder, "quantizer=mime"])
    with pytest.raises(VqnmtError, match=r"^quantizer=mine is not a known choice"):
        load_config("train_nmt", ["quantizer=mine"])


def test_cfg_job_prints_what_composes_again(script: Callable, mine: Path) -> None:
    from omegaconf import OmegaConf

    words = ("--config-dir", mine, "quantizer=mine", "--cfg", "job", "run=a b")
    outcome = script("train_nmt", *words)
    assert outcome.status == 0, outcome.err
    printed = OmegaConf.to_container(OmegaConf.create(outcome.out))
    expected = [f"--config-dir={mine}", "quantizer=mine", "run=a b"]
    assert printed == load_config("train_nmt", expected)
    outcome = script("train_nmt", "--cfg", "hydra")
    assert outcome.status == 2 and "--cfg hydra: only the job has settings" in outcome.err


def test_multirun_starts_a_run_for_each_combination(monkeypatch: pytest.MonkeyPatch) -> None:
    program = ["python", "-m", "vqnmt", "train"]
    words = ["--multirun", "quantizer=ema,soft_em", "seed=range(1,3)", "run=r/x", "beam=4"]
    compose = partial(load_config, "train_nmt")
    started = mock.Mock(return_value=mock.Mock(returncode=0))
    monkeypatch.setattr(subprocess, "run", started)
    monkeypatch.setattr(sys, "argv", ["vqnmt train", *words])
    monkeypatch.setattr(sys, "orig_argv", [*program, *words])
    hydra_options.run_each(words, compose)
    assert [call.args[0] for call in started.call_args_list] == [
        [*program, quantizer, seed, "run=r/x", "beam=4", f"run=r/x/{quantizer},{seed}"]
        for quantizer in ("quantizer=ema", "quantizer=soft_em")
        for seed in ("seed=1", "seed=2")
    ]
    # A mistake in any of them shows before the first is begun, and a failure ends the rest.
    started.reset_mock()
    with pytest.raises(VqnmtError, match="quantizer=nosuch is not a known choice"):
        hydra_options.run_each(["-m", "quantizer=ema,nosuch"], compose)
    started.assert_not_called()
    started.return_value = mock.Mock(returncode=2)
    with pytest.raises(SystemExit) as stop:
        hydra_options.run_each(["-m", "seed=1,2"], compose)
    assert stop.value.code == 2 and started.call_count == 1
