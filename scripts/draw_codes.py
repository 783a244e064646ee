"""Draw what discrete codes buy, docs/guide/what_codes_buy.md: from records and from a model folder.

    python scripts/draw_codes.py --out FOLDER --systems FILE --test-set NAME
    python scripts/draw_codes.py --out FOLDER --sizes FILE [FILE ...]
    python scripts/draw_codes.py --out FOLDER --model FOLDER --text FILE [--sentence TEXT ...]

Writes codes_bleu_latency.png, codes_sizes.png and codes_meanings.png, those that are asked for.
"""

from pathlib import Path

from vqnmt.commands.command_line import Options, run

from vqnmt.data.readers import read_lines
from vqnmt.errors import VqnmtError
from vqnmt.evaluation.code_plots import plot_meanings, plot_sizes
from vqnmt.evaluation.latency_plots import plot_bleu_latency
from vqnmt.evaluation.records import Record, read_records
from vqnmt.experiments.code_meanings import code_swaps, code_words
from vqnmt.experiments.tables import system_records
from vqnmt.translate.loading import load_translator

CODES, WORDS, SWAPS = 14, 5, 5


def main(arguments: list[str]) -> None:
    """Draw the pictures that are asked for."""
    parser = Options(__doc__)
    parser.add_argument("--out", required=True, help="folder of the pictures")
    parser.add_argument("--systems", help="records of reproduce_translation.py")
    parser.add_argument("--test-set", default="test", help="whose BLEU is drawn")
    parser.add_argument("--sizes", nargs="+", default=[], help="records of ablations of n_c and K")
    parser.add_argument("--model", help="folder of a latent model")
    parser.add_argument("--text", help="sources, a line each, in which its codes are counted")
    parser.add_argument("--sentence", nargs="+", default=[], help="whose first code is swapped")
    options = parser.parse_args(arguments)
    if not (options.systems or options.sizes or options.model):
        raise VqnmtError("nothing is asked for: give --systems, --sizes or --model")
    if bool(options.model) != bool(options.text):
        raise VqnmtError("--model and --text belong together: give both")
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    if options.systems:
        records = first_seeds(system_records(read_records(options.systems)))
        plot_bleu_latency(records, folder / "codes_bleu_latency.png", options.test_set, True)
    if options.sizes:
        every = [record for file in options.sizes for record in read_records(file)]
        plot_sizes(
            list({record.system: record for record in every}.values()), folder / "codes_sizes.png"
        )
    if options.model:
        translator = load_translator(options.model)
        swaps = [code_swaps(translator, sentence, 0, SWAPS) for sentence in options.sentence]
        words = code_words(translator, list(read_lines(options.text)), CODES, WORDS)
        plot_meanings(words, swaps, folder / "codes_meanings.png")
    print(f"pictures: {folder}/codes_*")


def first_seeds(records: list[Record]) -> list[Record]:
    """Keep the seed of each system that was timed."""
    return [record for record in records if "latency_ms.median" in record.metrics]


if __name__ == "__main__":
    run(main)
