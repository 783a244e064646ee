"""Run only what comes before the student: corpus, vocabulary, teacher, distillation.

    python scripts/distill.py [teacher=FOLDER-OR-NAME] [corpus=multi30k] [key=value ...]

The text stands in <run>/distilled; train_nmt.py with the same keys goes on from there.
"""

from command_line import load_config, run


def main(arguments: list[str]) -> None:
    """Distil, and say where the text is."""
    from vqnmt.pipeline import PipelineConfig, TranslationPipeline
    from vqnmt.progress import print_once
    from vqnmt.settings import from_mapping

    config = from_mapping(PipelineConfig, load_config("train_nmt", arguments))
    pipeline = TranslationPipeline(config)
    pipeline.prepare_corpus()
    pipeline.train_vocabulary()
    pipeline.train_teacher()
    text = pipeline.distill()
    print_once(f"{len(text):,} translations: {pipeline.stages['distilled'].folder}")
    if config.recombined and config.distill:
        text = pipeline.student_text()
        folder = pipeline.stages[pipeline.before_student].folder
        print_once(f"{len(text):,} translations with those of made-up sources: {folder}")


if __name__ == "__main__":
    run(main, "train_nmt")
