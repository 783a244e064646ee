"""The keys of each script: their types, their defaults in the code, and their text for --help."""

from typing import Any

from vqnmt.commands import fields
from vqnmt.commands.fields import field_defaults, field_docs, field_types
from vqnmt.settings import to_flat, to_mapping

# Keys that a script has beside the settings of its pipeline; configs/<script>.yaml sets them.
OWN = {
    "students": "Students to train: names of configs/quantizer; [] trains none.",
    "systems": "Systems to train and measure: names of configs/experiment, or of configs/system.",
    "main": "Systems trained with all seeds and compared by paired bootstrap.",
    "seeds": "Seeds of the main systems; all else has the first. Images: of all.",
    "tables": "Image tables to make: names of configs/table.",
    "reference": "The system that the others are compared with, image by image; null: none.",
    "collapse": "Codebooks trained on Gaussian vectors and on the student's encoder outputs.",
}


def _kinds(name: str) -> dict[str, type]:
    """Return the dataclasses that hold the settings of `configs/<name>.yaml`, by their keys."""
    # Each script imports what it needs and no more.
    if "image" in name:
        from vqnmt.images.config import ImagePipelineConfig

        return {"": ImagePipelineConfig}
    from vqnmt.pipeline import PipelineConfig

    if name != "compare_quantizers":
        return {"": PipelineConfig}
    from vqnmt.experiments.collapse import CollapseConfig

    return {"": PipelineConfig, "collapse": CollapseConfig}


def types(name: str) -> dict[str, Any]:
    """Return the type of every setting by its dotted key."""
    return {k: t for path, kind in _kinds(name).items() for k, t in field_types(kind, path).items()}


def open_groups(name: str) -> set[str]:
    """Return the groups whose keys depend on a choice, such as that of the quantizer."""
    return {key for path, kind in _kinds(name).items() for key in fields.open_groups(kind, path)}


def register(name: str) -> None:
    """Give Hydra the defaults of the dataclasses as the configuration `defaults`."""
    from hydra.core.config_store import ConfigStore

    values: dict[str, Any] = {}
    for path, kind in _kinds(name).items():
        defaults = to_mapping(kind, differing=True)
        values |= {path: defaults} if path else defaults
    ConfigStore.instance().store("defaults", values)


def help_text(name: str, values: dict[str, Any]) -> str:
    """Return every key with its value and the first sentence of its docstring.

    Args:
        name: Of the configuration.
        values: Those of the configuration as composed.
    """
    from vqnmt.training.stage import as_text

    flat = to_flat(values)
    docs = {key: text for key, text in OWN.items() if key in flat}
    for path, kind in _kinds(name).items():
        flat = field_defaults(kind, path) | flat
        docs |= {path: OWN[path]} if path else {}
        docs |= field_docs(kind, path)
    # A group of keys stands above its own.
    entries = ((f"{k}={as_text(flat[k])}" if k in flat else f"\n{k}.*", docs[k]) for k in docs)
    return "\n".join(f"{key}\n    {text}" for key, text in entries)
