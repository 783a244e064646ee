"""Every choice of every configuration group composes and passes the checks of the settings."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from vqnmt.commands.command_line import deciding, load_config

import pytest

from vqnmt.commands.fields import field_types
from vqnmt.errors import VqnmtError
from vqnmt.experiments.collapse import CollapseConfig
from vqnmt.images.config import ImagePipelineConfig
from vqnmt.pipeline import PipelineConfig
from vqnmt.quantizers import FSQConfig, SoftEMConfig
from vqnmt.settings import from_mapping, to_flat, to_mapping

ROOT = Path(__file__).parent.parent.parent
CONFIGS = ROOT / "configs"
# The groups of the image scripts, which test_image_config.py composes, and of
# reproduce_translation.py, which test_reproduce_translation.py does.
OTHERS = ("budget", "data", "size", "system", "table", "ablation")
CHOICES = sorted(
    f"{path.parent.name}={path.stem}"
    for path in CONFIGS.glob("*/*.yaml")
    if path.parent.name not in OTHERS
)
IMAGE_SCRIPTS = ("train_image", "reproduce_image")
# Groups whose keys depend on a choice.
OPEN = ("student_model.quantizer", "plugin_student")
# Where there is no default: the corpus of the user's own files.
NEEDED = {"corpus=files": ["corpus.train.tsv=text.tsv"]}


@pytest.fixture
def compose():
    return lambda *overrides: load_config("train_nmt", list(overrides))


def test_defaults_compose(compose) -> None:
    values = compose()
    config = from_mapping(PipelineConfig, values)
    assert config.corpus.name == "homeassistant" and config.run == "runs/homeassistant-en-de"
    assert config.student_model.quantizer.name == "ema" and config.distill
    assert "omegaconf" not in {type(value).__module__ for value in to_flat(values).values()}


@pytest.mark.parametrize("choice", CHOICES)
def test_choice_composes(compose, choice: str) -> None:
    values = compose(choice, *NEEDED.get(choice, []))
    config = from_mapping(PipelineConfig, values)
    group, name = choice.split("=")
    if group == "corpus":
        assert config.corpus.name == name
        assert config.run == f"runs/{name}-en-de"
    if group == "quantizer":
        assert config.student_model.quantizer.name == name.removesuffix("_reference")
    if group == "experiment":  # goes before what train_nmt.yaml itself sets
        text = (CONFIGS / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
        for key, value in re.findall(r"^(warm_start|distill|student): (\S+)$", text, re.MULTILINE):
            assert str(getattr(config, key)).lower() == value, key
    # What the file sets is what the settings hold: nothing is dropped on the way, but for the
    # default decay where the chosen quantizer has none.
    flat, given = to_flat(dataclasses.asdict(config)), to_flat(values)
    assert given.keys() - flat.keys() <= {"student_model.quantizer.decay"}
    assert {key: flat[key] for key in given if key in flat} == {
        key: value for key, value in given.items() if key in flat
    }


def test_records_keep_what_decides_numbers() -> None:
    kept = ["seed=2", "+corpus.extra=run", "runs=1", "systems=[best]"]
    places = ["run=/home/me/r", "records=null", "data.cache=/home/me/d", "++corpus.cache=/d"]
    places.append("--config-dir=mine")
    assert deciding([*kept, *places]) == kept
    assert deciding([*places, *kept], "systems") == kept[:-1]


def test_choices_combine(compose) -> None:
    values = compose(
        "corpus=multi30k",
        "model=base",
        "quantizer=soft_em",
        "training=long",
        "seed=7",
        "student_model.output=cross_entropy",
        "student_model.upsampling=1",
        "student_model.gold_mixing=true",
        "teacher=some/checkpoint",
        "records=null",
    )
    config = from_mapping(PipelineConfig, values)
    assert config.student_model.transformer.dim == 512 and config.student_model.gold_mixing
    assert config.student_training.steps > config.teacher_training.steps > 10_000
    assert config.records is None and config.seed == 7


@pytest.mark.parametrize("choice", CHOICES)
def test_every_key_can_be_set_on_the_command_line(compose, choice: str) -> None:
    values, known = set(to_flat(compose(choice))), set(field_types(PipelineConfig))
    assert values <= known
    # Which of these there are depends on the choice of the quantizer.
    assert all(key.startswith(OPEN) for key in known - values)


def test_keys_of_the_chosen_quantizer(compose) -> None:
    """Those that it has can be set; others are refused with those that exist."""
    words = ["quantizer=soft_em", "student_model.quantizer.samples=3"]
    quantizer = from_mapping(PipelineConfig, compose(*words)).student_model.quantizer
    assert quantizer == SoftEMConfig(codebook_size=64, decay=0.99, samples=3)
    named = ["student_model.quantizer.name=fsq", "student_model.quantizer.codebook_size=256"]
    assert from_mapping(PipelineConfig, compose(*named)).student_model.quantizer == FSQConfig()
    for key, remedy in (("samples", "choose among name, codebook_size"), ("betta", "beta")):
        with pytest.raises(VqnmtError, match=rf"^student_model\.quantizer\.{key} .*{remedy}"):
            from_mapping(PipelineConfig, compose(f"student_model.quantizer.{key}=3"))


# What the files of the scripts other than train_nmt.py and train_image.py set otherwise.
DIFFERENCES = {
    "compare_quantizers": {
        "distill": True,
        **{f"student_training.{k}": v for k, v in (("steps", 800), ("batch_tokens", 768))},
        **{f"student_training.{k}": v for k, v in (("learning_rate", 0.002), ("keep", 1))},
        "student_training.validate_every": 800,
    },
    "reproduce_translation": {"evaluation.throughput_batches": [8, 32]},
}
OWN = ("students", "systems", "main", "seeds", "collapse", "tables", "reference")


@pytest.mark.parametrize(
    "name", ["train_nmt", "compare_quantizers", "reproduce_translation", *IMAGE_SCRIPTS]
)
def test_the_defaults_are_those_of_the_code(name: str) -> None:
    values = load_config(name, [])
    own = {key: values.pop(key) for key in OWN if key in values}
    if name in IMAGE_SCRIPTS:
        run = "runs/images/cifar10-vqvae_em-cpu"
        code: Any = ImagePipelineConfig(run=run, system="vqvae_em", budget="cpu")
    else:
        code = PipelineConfig(run="runs/homeassistant-en-de")
    expected = to_flat(to_mapping(code, differing=True)) | DIFFERENCES.get(name, {})
    assert {k: repr(v) for k, v in to_flat(values).items()} == {
        k: repr(v) for k, v in expected.items()
    }
    if "collapse" in own:
        assert own["collapse"] == to_mapping(CollapseConfig)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student_model.outputt=ctc", r"student_model\.outputt .*did you mean student_model\.outp"),
        ("zzzz=1", "zzzz is not a known key"),
        ("corpus=homeasistant", "corpus=homeasistant .*did you mean homeassistant"),
        ("quantizer=soft_emm", "quantizer=soft_emm .*did you mean soft_em"),
        ("quantizer=other", "quantizer=other .*choose among ema, .*gradient"),
        ("model", "model.*write key=value"),
        ("seed=${nothing}", "nothing"),
    ],
)
def test_composition_errors_are_one_sentence(compose, override: str, message: str) -> None:
    with pytest.raises(VqnmtError, match=message) as caught:
        compose(override)
    assert "\n" not in str(caught.value) and "hydra" not in str(caught.value).lower()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=abc", r"^seed is 'abc' \(str\)"),
        ("seed=1.5", r"^seed is 1\.5"),
        ("seed=-1", "^seed is -1; it must be from 0 to 4,294,967,295$"),
        ("seed=4294967296", "^seed is 4294967296; .* to 4,294,967,295$"),
        ("evaluation.throughput_batches=[null]", r"^evaluation\.throughput_batches\[0\] is None"),
        ("distill=1", r"^distill is 1 \(int\)"),
        ("beam=0", "^beam is 0"),
        ("recombined=-1", "^recombined is -1; it must be from 0 to 1,000$"),
        ("recombined=1001", "^recombined is 1001; it must be from 0 to 1,000$"),
        (
            "vocabulary.size=1000000000",
            r"^vocabulary\.size is 1000000000; .* 1,000,000: 4 special",
        ),
        ("max_train_tokens=1000000000", "^max_train_tokens is .*; it must be from 1 to 100,000$"),
        ("max_source_tokens=1000000000", "^max_source_tokens is .*; it must be from 1 to 100,000$"),
        (
            "teacher_training.batch_tokens=1000000000",
            r"^teacher_training\.batch_tokens is .* from 1 to 16,777,216, because",
        ),
        ("run=", "^run is ''"),
        ("+unknown=1", "^unknown is not a known key"),
        ("evaluation.latency_sentences=-1", r"^evaluation\.latency_sentences is -1; .* 0 or more"),
        ("evaluation.latency_rounds=0", r"^evaluation\.latency_rounds is 0; .* 1 or more"),
        ("evaluation.latency_warmup=-1", r"^evaluation\.latency_warmup is -1; .* 0 or more"),
        ("evaluation.examples=-2", r"^evaluation\.examples is -2; .* 0 or more"),
        ("teacher_prefix=x", "^teacher_prefix is 'x', but teacher=own takes none"),
        ("teacher_model.transformer.heads=3", r"^teacher_model\.transformer\.heads is 3"),
        ("student_model.transformer.dim=0", r"^student_model\.transformer\.dim is 0"),
        ("teacher_training.steps=0", r"^teacher_training\.steps is 0"),
        ("teacher_training.schedule=linear", r"^teacher_training\.schedule is 'linear'"),
        ("student_model.output=crf", r"^student_model\.output is 'crf'; choose one of"),
        ("student_model.output=cross_entropy", r"^student_model\.upsampling is 2, but"),
        ("student_model.gold_mixing=true", r"^student_model\.gold_mixing is true"),
        ("student_model.quantizer.codebook_size=0", r"^student_model\.quantizer\.codebook_size is"),
        ("vocabulary.size=100", r"vocabulary\.size is 100"),
        ("corpus.source_language=de", "source_language and target_language are both 'de'"),
        ("corpus.max_ratio=0.5", r"corpus\.max_ratio is 0\.5"),
        ("distill=all", r"^distill is 'all'; choose one of true, false, selected$"),
        ("selection=101", "^selection is 101; it must be from 0 to 100$"),
    ],
)
def test_wrong_values_are_named(compose, override: str, message: str) -> None:
    with pytest.raises(VqnmtError, match=message):
        from_mapping(PipelineConfig, compose(override))


def test_made_up_sources_want_a_teacher(compose) -> None:
    with pytest.raises(VqnmtError, match=r"^recombined is 2, but distill is false"):
        from_mapping(PipelineConfig, compose("recombined=2", "distill=false"))
    # The teacher's own rows of a table train on nothing of the kind.
    from_mapping(PipelineConfig, compose("recombined=2", "experiment=ar_beam4"))
