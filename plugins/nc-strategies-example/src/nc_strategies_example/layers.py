"""The engine: dense layers in float or int8, ReLU between them, softmax behind."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
LARGEST = 127
"""Of symmetric int8; -128 is not used."""


@dataclass(frozen=True)
class Dense:
    """One layer. It computes in int8 when its weight is int8.

    Args:
        weight: Shape (inputs, outputs), float32 or int8.
        bias: Shape (outputs,), float32.
        weight_scale: Step of the int8 weight: one for all, or shape (outputs,).
        input_scale: Step of the int8 input.
    """

    weight: Array
    bias: Array
    weight_scale: Array
    input_scale: float

    def quantized(self, largest_input: float, per_channel: bool) -> Dense:
        """The layer in int8.

        Args:
            largest_input: Largest absolute input seen in calibration.
            per_channel: One step an output channel.
        """
        largest = np.abs(self.weight).max(0 if per_channel else None)
        scale = np.maximum(largest, 1e-12).astype(np.float32) / LARGEST
        return Dense(_int8(self.weight, scale), self.bias, np.asarray(scale), max(largest_input, 1e-12) / LARGEST)

    def product(self, x: Array) -> tuple[Array, np.dtype[Any]]:
        """The layer's output without activation function, and the type of the factors that were multiplied."""
        if self.weight.dtype != np.int8:
            return x @ self.weight + self.bias, x.dtype
        factor = _int8(x, np.float32(self.input_scale))
        # int8 times int8, summed in int32 as integer hardware does.
        total = np.matmul(factor, self.weight, dtype=np.int32)
        return total.astype(np.float32) * (self.weight_scale * np.float32(self.input_scale)) + self.bias, factor.dtype


def _int8(values: Array, scale: Any) -> Array:
    return np.asarray(np.clip(np.rint(values / scale), -LARGEST, LARGEST), np.int8)


def run(layers: list[Dense], x: Array) -> tuple[Array, list[Array], list[np.dtype[Any]]]:
    """Run a model.

    Args:
        layers: The model.
        x: Shape (N, inputs).

    Returns:
        Probabilities (N, classes), each layer's input, and the type of the factors each layer really multiplied.
    """
    inputs: list[Array] = []
    kinds = []
    for layer in layers:
        if inputs:
            x = np.maximum(x, 0)
        inputs.append(x)
        x, kind = layer.product(x)
        kinds.append(kind)
    odds = np.exp(x - x.max(1, keepdims=True))
    return (odds / odds.sum(1, keepdims=True)).astype(np.float32), inputs, kinds


def arrays(layers: list[Dense]) -> dict[str, Array]:
    """The model as arrays by name, as it is saved."""
    found: dict[str, Array] = {}
    for i, layer in enumerate(layers):
        found |= {f"w{i}": layer.weight, f"b{i}": layer.bias}
        if layer.weight.dtype == np.int8:
            found |= {f"ws{i}": layer.weight_scale, f"xs{i}": np.asarray(layer.input_scale, np.float32)}
    return found


def read(path: Path) -> list[Dense]:
    """Open a model file.

    Raises:
        ValueError, OSError: it is none.
    """
    with np.load(path, allow_pickle=False) as file:
        held: Mapping[str, Array] = dict(file)
    count = sum(name.startswith("w") and name[1:].isdigit() for name in held)
    layers = []
    width: int | None = None
    for i in range(count):
        if f"w{i}" not in held or f"b{i}" not in held:
            raise ValueError(f"w{i} or b{i} is missing")
        weight, bias = held[f"w{i}"], held[f"b{i}"]
        if weight.ndim != 2 or bias.shape != weight.shape[1:] or width not in (None, len(weight)):
            raise ValueError(f"w{i} of shape {weight.shape} and b{i} of shape {bias.shape} do not fit")
        width = weight.shape[1]
        weight = weight if weight.dtype == np.int8 else weight.astype(np.float32)
        layers.append(
            Dense(
                weight,
                bias.astype(np.float32),
                held.get(f"ws{i}", np.ones((), np.float32)),
                float(held.get(f"xs{i}", 1.0)),
            )
        )
    if not layers:
        raise ValueError("there is no layer")
    return layers


def fingerprint(layers: list[Dense]) -> str:
    """Hash of what is executed."""
    digest = hashlib.sha256()
    for name, array in arrays(layers).items():
        digest.update(f"{name} {array.dtype} {np.shape(array)}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def size_bytes(layers: list[Dense]) -> int:
    """Bytes of the weights, biases and scales."""
    return sum(array.nbytes for array in arrays(layers).values())
