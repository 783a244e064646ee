"""Train a teacher, distil it and train a discrete-latent student; print the table.

    vqnmt train [corpus=multi30k] [quantizer=soft_em] [key=value ...]

Starting the same command again resumes. The choices of corpus, quantizer, model, training and
experiment are the files of configs/.
"""

from vqnmt.commands.command_line import deciding, load_config


def main(arguments: list[str]) -> None:
    """Run all stages."""
    from accelerate import PartialState

    from vqnmt import pipeline
    from vqnmt.evaluation.report import results_table
    from vqnmt.pipeline.evaluation import evaluate
    from vqnmt.settings import from_mapping

    config = from_mapping(pipeline.PipelineConfig, load_config("train_nmt", arguments))
    job = pipeline.start_run(config)
    corpus = pipeline.make_corpus(job)
    vocabulary = pipeline.make_vocabulary(job, corpus)
    teacher = pipeline.make_teacher(job, corpus, vocabulary)
    text = pipeline.make_text(job, corpus, vocabulary, teacher)
    student = pipeline.make_student(job, corpus, vocabulary, teacher, text)
    if PartialState().is_main_process:
        records = evaluate(job, corpus, teacher, student, deciding(arguments))
        print(f"report: {job.folder / 'report.md'} · model: {job.folder / 'student'}\n")
        print(results_table(records))
