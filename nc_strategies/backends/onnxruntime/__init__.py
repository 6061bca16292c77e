"""ONNX Runtime: int8 through Q/DQ node pairs, and the engine's own dynamic and weight-only matrix products."""
