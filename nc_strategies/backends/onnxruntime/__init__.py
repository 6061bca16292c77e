"""ONNX Runtime: static int8 through Q/DQ node pairs, which the engine's optimizer fuses into int8 kernels."""
