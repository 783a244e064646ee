"""Reproduce the translation table of Roy et al. 2018, or an ablation, on one corpus.

    python scripts/reproduce_translation.py [corpus=multi30k] [systems=[best]] [key=value ...]
    python scripts/reproduce_translation.py ablation=codebook_size [key=value ...]

Uses the corpus, teacher and distilled text of a run that train_nmt.py has made with the same keys,
or makes them. What is done is skipped.
"""

from pathlib import Path

from vqnmt.commands.command_line import deciding, load_config, run

from vqnmt.evaluation.records import read_records
from vqnmt.evaluation.tables import seeds_note
from vqnmt.experiments.reproduction import Reproduction, Row
from vqnmt.experiments.tables import ablation_table, system_records, translation_tables
from vqnmt.files import atomic_write_text
from vqnmt.pipeline import PipelineConfig
from vqnmt.pipeline.run import pair_name
from vqnmt.pipeline.systems import BASELINES
from vqnmt.settings import from_mapping

NAME = "reproduce_translation"
OWN_KEYS = ("systems", "main", "seeds", "ablation")


def row(arguments: list[str], changes: list[str]) -> Row:
    """Compose the settings of one system."""
    values = load_config(NAME, [*arguments, *changes])
    for key in OWN_KEYS:
        values.pop(key, None)
    kept = deciding(arguments, *OWN_KEYS)
    return Row(from_mapping(PipelineConfig, values), [*changes, *kept])


def main(arguments: list[str]) -> None:
    """Run the systems, and print their table."""
    values = load_config(NAME, arguments)
    ablation = values.get("ablation")
    changes = {name: [f"experiment={name}"] for name in BASELINES}
    if ablation is None:
        systems = values["systems"]
        systems = systems if isinstance(systems, list) else [systems]
        changes |= {name: [f"experiment={name}"] for name in systems}
    else:
        for name, variant in ablation["variants"].items():
            named = any(change.startswith("experiment=") for change in variant)
            changes[name] = [*([] if named else [f"experiment={ablation['base']}"]), *variant]
    # A mistake in any system shows before the first is begun.
    rows = {name: row(arguments, changed) for name, changed in changes.items()}
    reproduction = Reproduction(
        rows,
        seeds=values["seeds"],
        main=values["main"] if ablation is None else (),
        tests=ablation is None,
    )
    records = reproduction.run()
    name = pair_name(reproduction.corpus)
    folder = Path(values["records"] or reproduction.folder / "table")
    if ablation is not None:
        folder, name = folder / "ablations", f"{ablation['name']}-{name}"
    path = folder / f"{name}.json"
    reproduction.publish(path, records)
    # With what earlier starts have recorded of other systems.
    every = system_records([*read_records(path), *records])
    table = translation_tables(every) if ablation is None else ablation_table(every)
    text = f"{seeds_note(every)}.\n\n{table}"
    atomic_write_text(path.with_suffix(".md"), text + "\n")
    print(f"\nrecords, table and pictures: {folder / name}*\n\n{text}")


if __name__ == "__main__":
    run(main, NAME)
