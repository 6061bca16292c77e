"""The backend ``numpy_mlp``."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.api import (
    FLOAT,
    Backend,
    Batch,
    Capabilities,
    Config,
    Executable,
    ExecutedOps,
    InputError,
    ModelInfo,
    ModelSource,
    OpCapability,
    OpScheme,
    TensorScheme,
    TensorSpec,
)
from nc_strategies_example import layers as engine
from nc_strategies_example.layers import Dense

SCHEMES = tuple(
    OpScheme(TensorScheme("int8", "sym"), TensorScheme("int8", "sym", granularity))
    for granularity in ("per_channel", "per_tensor")
)
"""What a layer can run in beside float, the default first."""


class NumpyExecutable(Executable):
    """A model that is ready to run.

    Args:
        layers: Its layers, float and int8 ones.
    """

    def __init__(self, layers: list[Dense]) -> None:
        self._layers = layers
        self.fingerprint = engine.fingerprint(layers)
        self.size_bytes = engine.size_bytes(layers)

    def predict(self, batch: Batch) -> Sequence[NDArray[Any]]:
        """Probabilities, shape (N, classes)."""
        return [engine.run(self._layers, batch["x"])[0]]

    def executed(self) -> ExecutedOps:
        """What a run multiplied, by the types of its factors."""
        zeros = np.zeros((1, len(self._layers[0].weight)), np.float32)
        kinds = engine.run(self._layers, zeros)[2]
        int8 = frozenset(f"dense{i}" for i, kind in enumerate(kinds) if kind == np.int8)
        return ExecutedOps(Counter(Dense=len(int8)), Counter(Dense=len(kinds) - len(int8)), int8)


class NumpyBackend(Backend):
    """Multi-layer perceptrons whose layers multiply in float32 or in int8, in numpy.

    Numpy has no fast int8 product: tune for size (``metrics=accuracy_size``), not for latency.
    """

    accepts = ("mlp",)

    def load(self, model: ModelSource) -> ModelInfo:
        """See `Backend.load`."""
        _, path = model.pick(self.accepts, "numpy_mlp")
        try:
            self._layers = engine.read(path)
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise InputError("model.path", f"{path} is not an mlp ({error})", "an .npz file of w0, b0, ...") from None
        if any(layer.weight.dtype == np.int8 for layer in self._layers):
            raise InputError("model.path", f"{path} is in int8 already", "the fp32 model")
        self._largest = [0.0] * len(self._layers)
        return ModelInfo(
            (TensorSpec("x", (None, len(self._layers[0].weight)), np.dtype(np.float32)),),
            (TensorSpec("probabilities", (None, self._layers[-1].weight.shape[1]), np.dtype(np.float32)),),
        )

    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`."""
        ops = tuple(
            OpCapability(
                f"dense{i}", "Dense", (*SCHEMES, FLOAT), parameters=layer.weight.size, elements=layer.weight.shape[1]
            )
            for i, layer in enumerate(self._layers)
        )
        return Capabilities(ops, tuple((a.name, b.name) for a, b in pairwise(ops)))

    def calibrate(self, batches: Sequence[Batch]) -> None:
        """Keep the largest absolute input of every layer."""
        for batch in batches:
            inputs = engine.run(self._layers, batch["x"])[1]
            self._largest = [max(old, float(np.abs(x).max())) for old, x in zip(self._largest, inputs, strict=True)]

    def reference(self) -> NumpyExecutable:
        """See `Backend.reference`."""
        return NumpyExecutable(self._layers)

    def build(self, config: Config) -> NumpyExecutable:
        """See `Backend.build`."""
        return NumpyExecutable(self._quantized(config))

    def save(self, config: Config, folder: Path) -> Path:
        """See `Backend.save`."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.npz"
        np.savez(path, **engine.arrays(self._quantized(config)))  # type: ignore[arg-type]
        return path

    def open(self, path: Path) -> NumpyExecutable:
        """See `Backend.open`."""
        return NumpyExecutable(engine.read(path))

    def versions(self) -> dict[str, str]:
        """See `Backend.versions`."""
        return {"numpy": np.__version__}

    def _quantized(self, config: Config) -> list[Dense]:
        made = []
        for i, layer in enumerate(self._layers):
            weight = config.schemes[f"dense{i}"].weight
            if weight is None or weight.is_float:
                made.append(layer)
            else:
                made.append(layer.quantized(self._largest[i], weight.granularity == "per_channel"))
        return made
