"""Discrete-latent machine translation: few autoregressive steps, all target tokens at once."""

__version__ = "0.1.0"
