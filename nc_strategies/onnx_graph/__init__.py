"""ONNX graphs for any engine: load, fold, fuse, equalize, quantize weights."""
