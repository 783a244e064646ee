"""Train a teacher, distil it and train a discrete-latent student; print the table.

    vqnmt train [corpus=multi30k] [quantizer=soft_em] [key=value ...]

Starting the same command again resumes. The choices of corpus, quantizer, model, training and
experiment are the files of configs/.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqnmt.commands.command_line import deciding, load_config

from vqnmt.errors import VqnmtError, missing_extra

if TYPE_CHECKING:
    from vqnmt.evaluation.records import Record


def main(arguments: list[str]) -> None:
    """Run all stages and print the table."""
    from vqnmt.evaluation.report import results_table

    folder, model, records = _run(arguments)
    if records:
        print(f"report: {folder / 'report.md'} · model: {model}\n")
        print(results_table(records))


def train(*overrides: str, **settings: Any) -> Path:
    """Train a teacher and a student, as `vqnmt train` does with the same words.

    `train("corpus=files", "corpus.train.tsv=my.tsv", model="tiny", run="runs/mine")`. Called again
    it goes on where it was interrupted, and does nothing once all is done.

    Args:
        overrides: Words of the command, `key=value`.
        settings: Further keys without a dot, with their values.

    Returns:
        The student's model folder, for `load_translator`; with student=teacher the teacher's.

    Raises:
        VqnmtError: A setting is unknown or out of range, a stage fails, or a package is missing;
            names what.
    """
    for given in overrides:
        if not isinstance(given, str):
            raise VqnmtError(f'{given!r:.80} is no override: give "key=value", or key=value')
    try:
        from vqnmt.training.stage import as_text

        words = []
        for key, value in settings.items():
            try:
                words.append(f"{key}={as_text(str(value) if isinstance(value, Path) else value)}")
            except TypeError:  # neither text nor number, nor a list or mapping of them
                kind = type(value).__name__
                raise VqnmtError(
                    f"{key} is of type {kind}: give text, a number or a list"
                ) from None
        return _run([*overrides, *words])[1]
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from None


def _run(arguments: list[str]) -> "tuple[Path, Path, list[Record]]":
    """Run all stages; returns the folders of the run and the model, the main process's records."""
    from accelerate import PartialState

    from vqnmt import pipeline
    from vqnmt.pipeline.evaluation import evaluate
    from vqnmt.settings import from_mapping

    config = from_mapping(pipeline.PipelineConfig, load_config("train_nmt", arguments))
    job = pipeline.start_run(config)
    corpus = pipeline.make_corpus(job)
    vocabulary = pipeline.make_vocabulary(job, corpus)
    teacher = pipeline.make_teacher(job, corpus, vocabulary)
    text = pipeline.make_text(job, corpus, vocabulary, teacher)
    student = pipeline.make_student(job, corpus, vocabulary, teacher, text)
    stage = job.stages.get("student", job.stages.get("teacher"))
    model = Path(config.teacher) if stage is None else stage.folder
    if not PartialState().is_main_process:
        return job.folder, model, []
    return job.folder, model, evaluate(job, corpus, teacher, student, deciding(arguments))
