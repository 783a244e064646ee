"""Train and measure all systems of the image table, one after another; print the table.

    python scripts/reproduce_image.py [budget=gpu] [systems=[vqvae_ema,vqvae_em]] [key=value ...]

What is done is skipped; starting the same command again resumes. Each system is a run of
train_image.py with the same keys, in runs/images/<data>-<system>-<budget>.
"""

from typing import Any

from vqnmt.commands.command_line import deciding, load_config, run

from accelerate import PartialState

from vqnmt.evaluation.records import Record
from vqnmt.images.config import ImagePipelineConfig
from vqnmt.images.evaluation import ImageEvaluation
from vqnmt.images.pipeline import (
    check_image_settings,
    make_data,
    make_model,
    start_image_run,
)
from vqnmt.images.tables import image_table
from vqnmt.progress import print_once
from vqnmt.settings import from_mapping

NAME = "reproduce_image"


def main(arguments: list[str]) -> None:
    """Run every system."""
    systems: list[str] = load_config(NAME, arguments)["systems"]
    # A mistake in any of them shows before the first is begun.
    commands = {name: [*arguments, f"system={name}"] for name in systems}
    configs = {name: settings(command) for name, command in commands.items()}
    for config in configs.values():
        check_image_settings(config)
    records: list[Record] = []
    for name, config in configs.items():
        print_once(f"system {name}")
        job = start_image_run(config)
        data = make_data(job)
        model = make_model(job, data)
        if PartialState().is_main_process:
            overrides = deciding(commands[name], "systems")
            records += ImageEvaluation(job, data, model, overrides).run()
    if PartialState().is_main_process:
        print(f"\n{image_table(records)}")


def settings(arguments: list[str]) -> ImagePipelineConfig:
    """Compose the settings of one system's run."""
    values: dict[str, Any] = load_config(NAME, arguments)
    del values["systems"]
    return from_mapping(ImagePipelineConfig, values)


if __name__ == "__main__":
    run(main, NAME)
