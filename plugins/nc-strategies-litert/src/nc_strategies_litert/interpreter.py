"""LiteRT interpreters, which run one shape of the inputs at a time."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from nc_strategies.api import Batch, EngineError

_STDERR = 2
"""File descriptor of standard error."""
_lock = threading.Lock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what the engine's C++ code writes to standard error: it reports at every start which delegate it made."""
    with _lock:
        try:
            kept = os.dup(_STDERR)
        except OSError:  # standard error is closed: nobody reads it
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, _STDERR)
            yield
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)
            os.close(nowhere)


def reason(error: BaseException) -> str:
    """The first line of an error of the engine."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class ResizedInterpreter:
    """An interpreter that takes the shapes of each batch.

    Args:
        model: The content of a ``.tflite`` file, or its path.
        threads: Threads per run.
        keep_tensors: Whether the tensors inside can be read after a run, which takes memory.

    Raises:
        EngineError: the engine refuses the model.
    """

    def __init__(self, model: bytes | Path, threads: int, keep_tensors: bool = False) -> None:
        which = {"model_path": str(model)} if isinstance(model, Path) else {"model_content": model}
        try:
            with warnings.catch_warnings(), quiet():
                warnings.simplefilter("ignore")  # keeping all tensors is meant for debugging, it says
                self.inner = Interpreter(**which, num_threads=threads, experimental_preserve_all_tensors=keep_tensors)
                self.inner.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise EngineError(f"LiteRT refuses the model: {reason(error)}") from error
        self.inputs, self.outputs = _ends(self.inner)
        self._shapes = {name: tuple(map(int, detail["shape"])) for name, detail in self.inputs.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        """The present shape of an input."""
        return self._shapes[name]

    def feed(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """The arrays that the engine takes: in its types, quantized where an input is int8."""
        made = {}
        for name, detail in self.inputs.items():
            array = np.asarray(batch[name])
            if _scaled(detail) and array.dtype.kind == "f":
                scale, zero = detail["quantization"]
                limits = np.iinfo(detail["dtype"])
                array = np.clip(np.rint(array / scale) + zero, limits.min, limits.max)
            made[name] = np.ascontiguousarray(array, detail["dtype"])
        return made

    def run(self, batch: Batch) -> None:
        """Run the model once; the results are read by `output` and `tensor`.

        Raises:
            EngineError: the engine refuses the batch.
        """
        self.run_fed(self.feed(batch))

    def run_fed(self, fed: dict[str, NDArray[Any]]) -> None:
        """Run the model once on what `feed` returned; see `run`."""
        try:
            if any(fed[name].shape != shape for name, shape in self._shapes.items()):
                self._resize({name: array.shape for name, array in fed.items()})
            for name, detail in self.inputs.items():
                self.inner.set_tensor(detail["index"], fed[name])
            self.inner.invoke()
        except (ValueError, RuntimeError) as error:
            raise EngineError(reason(error)) from error

    def _resize(self, shapes: dict[str, tuple[int, ...]]) -> None:
        for name, detail in self.inputs.items():
            signature = [int(size) for size in detail["shape_signature"]]
            if len(signature) == len(shapes[name]) and any(
                size not in (-1, wanted) for size, wanted in zip(signature, shapes[name], strict=True)
            ):
                raise EngineError(f"input {name!r} takes the shape {signature}, not {list(shapes[name])}")
            self.inner.resize_tensor_input(detail["index"], shapes[name])
        self.inner.allocate_tensors()
        self._shapes = dict(shapes)

    def results(self) -> list[NDArray[Any]]:
        """The outputs of the last run, in floating point."""
        found = []
        for detail in self.outputs.values():
            array = self.inner.get_tensor(detail["index"])
            if _scaled(detail):
                scale, zero = detail["quantization"]
                array = ((array.astype(np.float32) - zero) * scale).astype(np.float32)
            found.append(array)
        return found

    def tensor(self, index: int) -> NDArray[Any]:
        """A tensor of the last run."""
        try:
            found: NDArray[Any] = self.inner.get_tensor(index)
        except ValueError as error:
            raise EngineError(reason(error)) from error
        return found


def _scaled(detail: dict[str, Any]) -> bool:
    return np.dtype(detail["dtype"]).kind in "iu" and detail["quantization"][0] != 0


def _ends(interpreter: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Name to details of each input and output, by the first signature's names where there is one."""
    signatures = interpreter.get_signature_list()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if not signatures:
        return {d["name"]: d for d in inputs}, {d["name"]: d for d in outputs}
    with quiet():
        runner = interpreter.get_signature_runner(next(iter(signatures)))
    return _named(inputs, runner.get_input_details()), _named(outputs, runner.get_output_details())


def _named(details: list[dict[str, Any]], named: dict[str, Any]) -> dict[str, Any]:
    """Details in the file's order, by the names of the signature; two names may stand for one tensor."""
    names: dict[int, list[str]] = {}
    for name, detail in named.items():
        names.setdefault(int(detail["index"]), []).append(name)
    return {(names.get(int(d["index"])) or [d["name"]]).pop(0): d for d in details}
