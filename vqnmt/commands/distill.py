"""Run only what comes before the student: corpus, vocabulary, teacher, distillation.

    vqnmt distill [teacher=FOLDER-OR-NAME] [corpus=multi30k] [key=value ...]

The text stands in <run>/distilled; `vqnmt train` with the same keys goes on from there.
"""

from vqnmt.commands.command_line import load_config


def main(arguments: list[str]) -> None:
    """Distil, and say where the text is."""
    from vqnmt import pipeline
    from vqnmt.pipeline.translation import distill_text
    from vqnmt.progress import print_once
    from vqnmt.settings import from_mapping

    config = from_mapping(pipeline.PipelineConfig, load_config("train_nmt", arguments))
    job = pipeline.start_run(config)
    corpus = pipeline.make_corpus(job)
    vocabulary = pipeline.make_vocabulary(job, corpus)
    teacher = pipeline.make_teacher(job, corpus, vocabulary)
    text = distill_text(job, corpus, vocabulary, teacher)
    print_once(f"{len(text.pairs):,} translations: {job.stages[text.stage].folder}")
    if config.recombined and config.distill:
        text = pipeline.make_text(job, corpus, vocabulary, teacher)
        folder = job.stages[text.stage].folder
        print_once(f"{len(text.pairs):,} translations with those of made-up sources: {folder}")
