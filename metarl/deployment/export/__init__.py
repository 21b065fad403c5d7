"""Trained policies as files of ONNX and TorchScript: graphs, metadata, writing."""
