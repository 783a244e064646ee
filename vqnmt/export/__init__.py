"""Engines beside PyTorch: ONNX Runtime for the student, CTranslate2 for autoregressive models.

`vqnmt.translate.exported` translates without PyTorch; the other modules need it.
"""
