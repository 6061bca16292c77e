"""ONNX graphs for any engine: loading, folding, fusion, equalization, weight quantization, Q/DQ assembly."""
