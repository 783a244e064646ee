"""Measurement: scores, latency, run records, pictures, the report and the model card.

Everything here takes strings, numbers and functions, and imports no models and no training.
"""

from vqnmt.evaluation import fonts  # noqa: F401  before anything imports matplotlib
