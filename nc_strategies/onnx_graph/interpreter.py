"""onnxruntime as the interpreter for constant folding and shape evaluation, whatever engine runs the model later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from nc_strategies.errors import EngineError, first_line
from nc_strategies.models.info import Batch

PROVIDERS = ["CPUExecutionProvider"]


def options(threads: int = 1) -> ort.SessionOptions:
    """Session options: the engine's defaults, except for the number of threads and a log of fatal errors only."""
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    chosen.log_severity_level = 4
    return chosen


def start(model: bytes | Path, chosen: ort.SessionOptions) -> ort.InferenceSession:
    """Open a session.

    Raises:
        EngineError: the engine refuses the model.
    """
    try:
        return ort.InferenceSession(model if isinstance(model, bytes) else str(model), chosen, providers=PROVIDERS)
    except Exception as error:  # onnxruntime has one exception class per status code
        raise EngineError(f"onnxruntime refuses the model: {first_line(error)}") from error


def run(session: ort.InferenceSession, batch: Batch, names: Sequence[str] | None = None) -> Sequence[NDArray[Any]]:
    """Run a session once and return all outputs, or the named tensors.

    A sequence of maps from class to probability, as converters of scikit-learn write it, is returned as an array of
    shape (N, classes), in the order of the classes.

    Raises:
        EngineError: the engine could not run the model.
    """
    try:
        outputs: Sequence[Any] = session.run(names, batch)
    except Exception as error:  # as above
        raise EngineError(f"onnxruntime could not run the model: {first_line(error)}") from error
    return [_as_array(output) for output in outputs]


def _as_array(output: Any) -> NDArray[Any]:
    if isinstance(output, list) and output and all(isinstance(sample, dict) for sample in output):
        return np.array([[sample[name] for name in sorted(sample)] for sample in output])
    if isinstance(output, list):
        values = np.empty(len(output), object)
        values[:] = output
        return values
    return np.asarray(output)
