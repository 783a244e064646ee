"""Train an image model and its prior, measure bits per dimension, draw pictures.

    vqnmt images [system=vqvae_em] [budget=cpu] [data=cifar10] [key=value ...]

Starting the same command again resumes. The choices of data, budget and system are the files of
configs/.
"""

from vqnmt.commands.command_line import deciding, load_config


def main(arguments: list[str]) -> None:
    """Run all stages."""
    from accelerate import PartialState

    from vqnmt.images.config import ImagePipelineConfig
    from vqnmt.images.evaluation import ImageEvaluation
    from vqnmt.images.pipeline import make_data, make_model, start_image_run
    from vqnmt.images.tables import image_table
    from vqnmt.settings import from_mapping

    config = from_mapping(ImagePipelineConfig, load_config("train_image", arguments))
    job = start_image_run(config)
    data = make_data(job)
    model = make_model(job, data)
    if PartialState().is_main_process:
        records = ImageEvaluation(job, data, model, deciding(arguments)).run()
        print(f"report: {job.folder / 'report.md'}\n")
        print(image_table(records))
