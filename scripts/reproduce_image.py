"""Train and measure the systems of the image tables, one after another; print the tables.

    python scripts/reproduce_image.py [tables=[quantizers]] [budget=gpu] [key=value ...]

What is done is skipped; starting the same command again resumes. Each system is a run of
train_image.py with the same keys, in runs/images/<data>-<system>-<budget>, with the variant and the
seed behind it where there are several. `records` (default: runs/images) gets the records, tables
and pictures.
"""

from typing import Any

from vqnmt.commands.command_line import deciding, load_config, run

from accelerate import PartialState

from vqnmt.errors import VqnmtError
from vqnmt.images.comparison import TABLES, ImageComparison, Row
from vqnmt.images.config import ImagePipelineConfig
from vqnmt.settings import from_mapping

NAME = "reproduce_image"
OWN_KEYS = ("tables", "systems", "seeds", "variants", "reference")


def main(arguments: list[str]) -> None:
    """Run every table."""
    tables = load_config(NAME, arguments)["tables"]
    for table in tables:
        if table not in TABLES:
            raise VqnmtError(f"tables names {table!r}; choose among {', '.join(TABLES)}")
    # A mistake in any run shows before the first is begun.
    comparisons = [comparison(table, arguments) for table in tables]
    for one in comparisons:
        text = one.run()
        if PartialState().is_main_process:
            print(f"\nrecords, table and pictures: {one.path.with_suffix('')}*\n\n{text}")


def comparison(table: str, arguments: list[str]) -> ImageComparison:
    """Compose the runs of one table."""
    others = [word for word in arguments if word.partition("=")[0] != "table"]
    chosen = [f"table={table}", *others]
    values = load_config(NAME, chosen)
    given = {argument.partition("=")[0] for argument in arguments}
    seeds = [values["seed"]] if "seed" in given and "seeds" not in given else values["seeds"]
    if not seeds or not all(type(seed) is int for seed in seeds):
        raise VqnmtError(f"seeds is {seeds}; give one whole number or more")
    if not values["systems"]:
        raise VqnmtError("systems is empty: give it one name of configs/system or more")
    variants: dict[str, list[str]] = values["variants"] or {"": []}
    rows = [
        row
        for system in values["systems"]
        for variant, changes in variants.items()
        for row in with_seeds(chosen, system, variant, changes, seeds)
    ]
    return ImageComparison(table, rows, values["reference"])


def with_seeds(
    arguments: list[str], system: str, variant: str, changes: list[str], seeds: list[int]
) -> list[Row]:
    """Compose the settings of a system's runs, which differ in their seeds alone."""
    given = [word for word in arguments if word.partition("=")[0] not in ("seed", "system")]
    words = [*given, *changes, f"system={system}"]
    values: dict[str, Any] = load_config(NAME, words)
    for key in OWN_KEYS:
        del values[key]
    if variant and not any(word.startswith("run=") for word in given):
        values["run"] += f"-{variant}"
    kept = [word for word in deciding(words, *OWN_KEYS) if word != "table=systems"]
    rows = []
    for seed in seeds:
        place = values["run"] if seed == 1 else f"{values['run']}-seed{seed}"
        config = from_mapping(ImagePipelineConfig, {**values, "seed": seed, "run": place})
        rows.append(Row(config, kept, variant))
    return rows


if __name__ == "__main__":
    run(main, NAME)
