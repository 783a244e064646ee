"""Measurement: scores, latency, run records, pictures, the report and the model card.

Everything here takes strings, numbers and functions, and imports no models and no training.
"""

from vqnmt.evaluation import fonts  # noqa: F401  before anything imports matplotlib
from vqnmt.evaluation.latency import Latency, measure_latency, speedup
from vqnmt.evaluation.latency_plots import plot_bleu_latency
from vqnmt.evaluation.model_card import model_card
from vqnmt.evaluation.plots import plot_code_usage, plot_training
from vqnmt.evaluation.records import Record, publish_records, read_records, write_records
from vqnmt.evaluation.report import (
    CorpusFacts,
    Example,
    Picture,
    results_table,
    write_report,
)
from vqnmt.evaluation.scores import Scores, bleu_tokenizer, score

__all__ = [
    "CorpusFacts",
    "Example",
    "Latency",
    "Picture",
    "Record",
    "Scores",
    "bleu_tokenizer",
    "measure_latency",
    "model_card",
    "plot_bleu_latency",
    "plot_code_usage",
    "plot_training",
    "publish_records",
    "read_records",
    "results_table",
    "score",
    "speedup",
    "write_records",
    "write_report",
]
