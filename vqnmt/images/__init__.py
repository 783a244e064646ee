"""The image track: data, models, likelihood, pipeline and pictures."""
