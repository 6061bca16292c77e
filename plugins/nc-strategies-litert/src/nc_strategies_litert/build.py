"""Quantized models of configurations, written by ai-edge-quantizer from recipes and calibrated ranges."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from ai_edge_quantizer import qtyping, quantizer

from nc_strategies.api import Config, EngineError, OpScheme
from nc_strategies_litert.graph import MOVES, Graph, Op
from nc_strategies_litert.interpreter import quiet

Ranges = Callable[[str, str], tuple[float, float]]
"""Tensor name and calibration algorithm to the range (lowest, highest value)."""
BITS = 8
GRANULARITY = {
    "per_channel": qtyping.QuantGranularity.CHANNELWISE,
    "per_tensor": qtyping.QuantGranularity.TENSORWISE,
}
EVERY = qtyping.TFLOperationName.ALL_SUPPORTED
NO_QUANTIZE = quantizer.AlgorithmName.NO_QUANTIZE
DEFAULT_ALGORITHM = "minmax"


class ModelBuilder:
    """Builds the model of a configuration.

    Args:
        content: The prepared floating-point model.
        int8_io: Whether floating-point inputs and outputs become int8, if any operator is in static int8.
    """

    def __init__(self, content: bytes, int8_io: bool = False) -> None:
        self.content, self.graph, self.int8_io = content, Graph(content), int8_io

    @cached_property
    def activations(self) -> tuple[int, ...]:
        """Floating-point tensors that are no constants, whose ranges static int8 needs."""
        made = [*self.graph.inputs.values(), *(t for op in self.graph.ops for t in op.outputs)]
        return tuple(t for t in dict.fromkeys(made) if self.graph.tensors[t].dtype == "float32")

    def build(self, config: Config, ranges: Ranges) -> bytes:
        """The model of a configuration.

        Args:
            config: Schemes by operator name.
            ranges: Calibrated ranges.

        Returns:
            The content of a ``.tflite`` file.

        Raises:
            EngineError: the model has no such operator, or the quantizer refuses it.
        """
        schemes = {name: scheme for name, scheme in config.ops if not scheme.is_float}
        known = {op.name for op in self.graph.ops}
        if unknown := set(schemes) - known:
            raise EngineError(f"the model has no operator {min(unknown)!r}")
        if not schemes:
            return self.content
        try:
            made = quantizer.Quantizer(self.content)
            self._write_recipe(made, schemes)
            calibration = self._calibration(schemes, ranges) if made.need_calibration else None
            with warnings.catch_warnings(), quiet():
                warnings.simplefilter("ignore")  # it opens an interpreter that keeps all tensors, which warns
                result = made.quantize(calibration, enable_progress_bar=False, enable_progress_report=False)
        except (ValueError, RuntimeError, KeyError, IndexError, TypeError, NotImplementedError) as error:
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise EngineError(f"ai-edge-quantizer cannot quantize the model: {reason}") from error
        if result.quantized_model is None:
            raise EngineError("ai-edge-quantizer wrote no model")
        return bytes(result.quantized_model)

    def _write_recipe(self, made: quantizer.Quantizer, schemes: Mapping[str, OpScheme]) -> None:
        names: dict[tuple[str, str], list[str]] = {}
        for name, scheme in schemes.items():
            granularity = scheme.weight.granularity if scheme.weight is not None else "per_channel"
            names.setdefault((scheme.mode, granularity), []).append(name)
        static = {name for name, scheme in schemes.items() if scheme.is_static}
        moved = self.moved(static)
        if moved:
            names.setdefault(("static", "per_channel"), []).extend(moved)
        made.update_quantization_recipe(".*", EVERY, None, NO_QUANTIZE)
        for (mode, granularity), chosen in names.items():
            # An operator is matched by the names of all its outputs, each with a semicolon behind it.
            regex = f"^(?:{'|'.join(re.escape(name) for name in chosen)});"
            weight = GRANULARITY[granularity]
            if mode == "static":
                made.add_static_config(regex, EVERY, BITS, BITS, weight)
            elif mode == "dynamic":
                made.add_dynamic_config(regex, EVERY, BITS, weight)
            else:
                made.add_weight_only_config(regex, EVERY, BITS, weight)
        for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            if self.int8_io and static:
                made.add_static_config(".*", end, BITS, BITS)
            else:
                made.update_quantization_recipe(".*", end, None, NO_QUANTIZE)

    def moved(self, static: Collection[str]) -> list[str]:
        """Operators that only move values and do so in int8, because they read int8 or only int8 operators read them.

        Args:
            static: Names of the operators in static int8.
        """
        chosen = set(static)
        ends = set(self.graph.outputs.values())
        free = [op for op in self.graph.ops if op.type in MOVES and op.inputs and self._is_float(op)]
        for op in free:
            producer = self.graph.producers.get(self.source(op))
            if producer is not None and producer.name in chosen:
                chosen.add(op.name)
        for op in reversed(free):
            readers = [reader for t in op.outputs for reader in self.graph.readers.get(t, ())]
            fed = self.graph.producers.get(self.source(op)) is None
            if fed and readers and all(r.name in chosen for r in readers) and not ends.intersection(op.outputs):
                chosen.add(op.name)
        return [op.name for op in free if op.name in chosen]

    def source(self, op: Op) -> int:
        """The tensor that an operator that moves values takes them from."""
        return next((t for t in op.inputs if self.graph.tensors[t].dtype == "float32"), op.inputs[0])

    def _is_float(self, op: Op) -> bool:
        return self.graph.tensors[self.source(op)].dtype == "float32"

    def _calibration(self, schemes: Mapping[str, OpScheme], ranges: Ranges) -> dict[str, dict[str, Any]]:
        """Ranges in the quantizer's form: a tensor's range is that of its first int8 reader, else of its producer."""
        found = {}
        for index in self.activations:
            tensor = self.graph.tensors[index]
            low, high = ranges(tensor.name, self._algorithm(index, schemes))
            shape = (1,) * len(tensor.shape)
            found[tensor.name] = {
                "min": np.full(shape, low, np.float32),
                "max": np.full(shape, high, np.float32),
            }
        return found

    def _algorithm(self, tensor: int, schemes: Mapping[str, OpScheme]) -> str:
        producer = self.graph.producers.get(tensor)
        for op in (*self._behind(tensor), *((producer,) if producer is not None else ())):
            scheme = schemes.get(op.name)
            if scheme is not None and scheme.is_static:
                return scheme.activation.algorithm
        return DEFAULT_ALGORITHM

    def _behind(self, tensor: int) -> list[Op]:
        """Operators that read a tensor, directly or behind operators that only move its values."""
        found = []
        for op in self.graph.readers.get(tensor, ()):
            if op.type in MOVES:
                found += [reader for made in op.outputs for reader in self._behind(made)]
            else:
                found.append(op)
        return found


def fingerprint(content: bytes) -> str:
    """A hash of a model's file."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
