"""Engines beside PyTorch: ONNX Runtime for the student, CTranslate2 for autoregressive models."""
