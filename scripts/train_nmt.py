"""Train a teacher, distil it and train a discrete-latent student; print the table.

    python scripts/train_nmt.py [corpus=multi30k] [quantizer=soft_em] [key=value ...]

Starting the same command again resumes. The choices of corpus, quantizer, model, training and
experiment are the files of configs/.
"""

from command_line import deciding, load_config, run


def main(arguments: list[str]) -> None:
    """Run all stages."""
    from accelerate import PartialState

    from vqnmt.evaluation.report import results_table
    from vqnmt.pipeline import PipelineConfig, TranslationPipeline
    from vqnmt.pipeline.evaluation import Evaluation
    from vqnmt.settings import from_mapping

    config = from_mapping(PipelineConfig, load_config("train_nmt", arguments))
    pipeline = TranslationPipeline(config)
    pipeline.run()
    if PartialState().is_main_process:
        evaluation = Evaluation(pipeline, deciding(arguments))
        records = evaluation.run()
        print(f"report: {pipeline.folder / 'report.md'} · model: {pipeline.folder / 'student'}\n")
        print(results_table(records))


if __name__ == "__main__":
    run(main, "train_nmt")
