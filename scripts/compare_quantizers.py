"""Compare quantizers: collapse of the codebook, and a student with each at one small budget.

    python scripts/compare_quantizers.py [run=runs/multi30k-en-de corpus=multi30k] [key=value ...]

Uses the corpus, teacher and distilled text of a run that train_nmt.py has made with the same keys,
and its student's encoder outputs. What is done is skipped.
"""

from dataclasses import replace
from typing import Any

from vqnmt.commands.command_line import deciding, load_config, run

from vqnmt.experiments.collapse import CollapseConfig
from vqnmt.experiments.comparison import QuantizerComparison
from vqnmt.experiments.tables import collapse_table, students_table
from vqnmt.models import LatentConfig
from vqnmt.pipeline import PipelineConfig, check_settings
from vqnmt.quantizers import QuantizerConfig
from vqnmt.settings import from_mapping

NAME = "compare_quantizers"


def quantizer(name: str, arguments: list[str]) -> QuantizerConfig:
    """Compose the settings of one quantizer."""
    values: dict[str, Any] = load_config(NAME, [*arguments, f"quantizer={name}"])
    return from_mapping(LatentConfig, values["student_model"], "student_model").quantizer


def main(arguments: list[str]) -> None:
    """Run both parts, and print their tables."""
    values = load_config(NAME, arguments)
    # A mistake in any part shows before the first is begun.
    quantizers = {name: quantizer(name, arguments) for name in values.pop("students")}
    collapse = from_mapping(CollapseConfig, values.pop("collapse"), "collapse")
    config = from_mapping(PipelineConfig, values)
    for one in quantizers.values():
        model = replace(config.student_model, quantizer=one)
        check_settings(replace(config, student_model=model))
    comparison = QuantizerComparison(config, deciding(arguments, "students"))
    if collapse.steps:
        print(f"\n{collapse_table(comparison.collapse(collapse))}\n", flush=True)
    if quantizers:
        print(f"\n{students_table(comparison.students(quantizers))}")


if __name__ == "__main__":
    run(main, NAME)
