"""A bundle as a model repository of NVIDIA's Triton Inference Server."""

ENGINES = ("onnxruntime", "tensorrt")
"""What Triton can run the graphs with, as models of their own."""
