"""Neural Compressor's entry point, under the name that it has there: ``quantization.fit``."""

from __future__ import annotations

from nc_strategies.compat.neural_compressor.fit import QuantizedModel, fit

__all__ = ["QuantizedModel", "fit"]
