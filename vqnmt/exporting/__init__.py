"""Writes models for other engines: latent for ONNX Runtime, autoregressive for CTranslate2.

`vqnmt.translate.exported` translates with what is written here, without PyTorch.
"""
