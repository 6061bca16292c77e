"""ONNX Runtime: static int8 by QuantizeLinear/DequantizeLinear pairs, which its optimizer turns into int8 kernels."""
