"""The delegate's own profile, read through LiteRT's C interface (``libLiteRt.so`` of the package ai-edge-litert).

The Python interface has no profiler. The library's ``LiteRtCompiledModel`` runs the same XNNPACK kernels, and with
``enable_profiling`` its profiler holds one event per kernel that the delegate ran, named after the kernel and its data
types, such as ``Convolution (NHWC, QC8) IGEMM``. Names, types and layouts are those of ``litert/c`` of LiteRT 2.3. A
child process tries them before they are used (see `probe.profiler_works`), because a library with other layouts may
end the process.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ai_edge_litert
import numpy as np
from numpy.typing import NDArray

from nc_strategies.api import EngineError
from nc_strategies_litert.interpreter import quiet

CPU = 1
"""``kLiteRtHwAcceleratorCpu``"""
HOST_MEMORY = 1
"""``kLiteRtTensorBufferTypeHostMemory``"""
WRITE = 1
"""``kLiteRtTensorBufferLockModeWrite``"""
OPERATOR, DELEGATE_OPERATOR = 2, 8
"""Event types: an operator of the graph, a kernel of a delegate."""
TENSOR_TYPE_BYTES = 256
"""Room for a ``LiteRtRankedTensorType``; it takes 76 bytes in LiteRT 2.3."""
LARGEST_ITEM_BYTES = 8
"""Bytes of the largest type of an output's elements."""
RANK_BITS = 0x7F
"""Bits of the rank in the second word of a ``LiteRtRankedTensorType``; its sizes follow."""


@dataclass(frozen=True)
class KernelEvent:
    """A kernel that ran.

    Args:
        name: The kernel's name, or the operator type where no delegate executed it.
        node: Index of the operator in the graph, or of the kernel in its delegate.
        delegated: Whether the delegate executed it.
        seconds: Its duration.
    """

    name: str
    node: int
    delegated: bool
    seconds: float


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("footprint", "allocated", "in_use")]


class _Event(ctypes.Structure):
    _fields_ = [
        ("tag", ctypes.c_char_p),
        ("kind", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("begin", _Memory),
        ("end", _Memory),
        ("node", ctypes.c_uint64),
        ("extra", ctypes.c_uint64),
        ("source", ctypes.c_int),
    ]


@functools.cache
def _library() -> ctypes.CDLL:
    folder = Path(str(ai_edge_litert.__file__)).parent
    found = [folder / name for name in ("libLiteRt.so", "libLiteRt.dylib", "LiteRt.dll") if (folder / name).is_file()]
    if not found:
        raise EngineError("ai-edge-litert has no library with a profiler")
    return ctypes.CDLL(str(found[0]))


def _call(name: str, *arguments: Any) -> None:
    function = getattr(_library(), name, None)
    if function is None:
        raise EngineError(f"ai-edge-litert has no {name}")
    status = function(*arguments)
    if status:
        raise EngineError(f"{name} returns status {status}")


def _made(name: str, *arguments: Any) -> ctypes.c_void_p:
    handle = ctypes.c_void_p()
    _call(name, *arguments, ctypes.byref(handle))
    return handle


@functools.cache
def _environment() -> ctypes.c_void_p:
    """The library's environment; there is one per process."""
    return _made("LiteRtCreateEnvironment", 0, None)


def _keep_text(payload: int | None) -> None:
    """Called where the library would free an option's text, which Python owns."""


_kept = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_keep_text)


def _option(identifier: bytes, payload: ctypes.Array[ctypes.c_char]) -> ctypes.c_void_p:
    return _made("LiteRtCreateOpaqueOptions", identifier, ctypes.cast(payload, ctypes.c_void_p), _kept)


class ProfiledModel:
    """A model with the engine's profiler; a context manager.

    Args:
        content: A ``.tflite`` file.
        threads: Threads per run.

    Raises:
        EngineError: the library refuses it, or is of another version.
    """

    def __init__(self, content: bytes, threads: int) -> None:
        self._content = content
        self._texts = [
            ctypes.create_string_buffer(b"enable_profiling = true\n"),
            ctypes.create_string_buffer(f"num_threads = {threads}\n".encode()),
        ]
        self._stack = ExitStack()
        try:
            with quiet():
                self._open()
        except BaseException:
            self._stack.close()
            raise

    def _open(self) -> None:
        self._model = _made("LiteRtCreateModelFromBuffer", _environment(), self._content, _size(len(self._content)))
        self._stack.callback(_library().LiteRtDestroyModel, self._model)
        options = _made("LiteRtCreateOptions")
        self._stack.callback(_library().LiteRtDestroyOptions, options)
        _call("LiteRtSetOptionsHardwareAccelerators", options, CPU)
        for identifier, text in zip((b"runtime_options_string", b"xnnpack"), self._texts, strict=True):
            _call("LiteRtAddOpaqueOptions", options, _option(identifier, text))
        self._compiled = _made("LiteRtCreateCompiledModel", _environment(), self._model, options)
        self._stack.callback(_library().LiteRtDestroyCompiledModel, self._compiled)
        self._profiler = _made("LiteRtCompiledModelGetProfiler", self._compiled)
        if not self._profiler:
            raise EngineError("the library made no profiler")

    def __enter__(self) -> ProfiledModel:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, feed: Sequence[NDArray[Any]], outputs: Sequence[Sequence[int]], runs: int) -> list[list[KernelEvent]]:
        """Profile some runs.

        Args:
            feed: One array per input, in the signature's order and in the engine's types.
            outputs: The shape of each output in the signature's order.
            runs: Number of runs.

        Returns:
            The events of each run, in execution order.
        """
        with quiet(), ExitStack() as buffers:
            for position, array in enumerate(feed):
                shape = (ctypes.c_int * array.ndim)(*array.shape)
                _call(
                    "LiteRtCompiledModelResizeInputTensorNonStrict",
                    self._compiled,
                    _size(0),
                    _size(position),
                    shape,
                    _size(array.ndim),
                )
            given = [self._buffer("Input", i, array.shape, buffers, array) for i, array in enumerate(feed)]
            taken = [self._buffer("Output", i, shape, buffers) for i, shape in enumerate(outputs)]
            found = []
            for _ in range(runs):
                _call("LiteRtResetProfiler", self._profiler)
                _call("LiteRtStartProfiler", self._profiler)
                _call(
                    "LiteRtRunCompiledModel",
                    self._compiled,
                    _size(0),
                    _size(len(given)),
                    (ctypes.c_void_p * len(given))(*given),
                    _size(len(taken)),
                    (ctypes.c_void_p * len(taken))(*taken),
                )
                _call("LiteRtStopProfiler", self._profiler)
                found.append(list(self._events()))
            return found

    def _buffer(
        self, end: str, position: int, shape: Sequence[int], stack: ExitStack, values: NDArray[Any] | None = None
    ) -> ctypes.c_void_p:
        needed = _made(f"LiteRtGetCompiledModel{end}BufferRequirements", self._compiled, _size(0), _size(position))
        size = ctypes.c_size_t()
        _call("LiteRtGetTensorBufferRequirementsBufferSize", needed, ctypes.byref(size))
        # After a resize, the requirements of outputs are the earlier ones until the next run.
        size.value = max(size.value, LARGEST_ITEM_BYTES * math.prod(shape))
        signature = _made("LiteRtGetModelSignature", self._model, _size(0))
        tensor = _made(f"LiteRtGetSignature{end}TensorByIndex", signature, _size(position))
        described = (ctypes.c_char * TENSOR_TYPE_BYTES)()
        _call("LiteRtGetRankedTensorType", tensor, described)
        words = ctypes.cast(described, ctypes.POINTER(ctypes.c_int32))
        if words[1] & RANK_BITS != len(shape):
            raise EngineError("the library describes tensors in another way")
        for axis, length in enumerate(shape):
            words[2 + axis] = length
        buffer = _made("LiteRtCreateManagedTensorBuffer", _environment(), HOST_MEMORY, described, size)
        stack.callback(_library().LiteRtDestroyTensorBuffer, buffer)
        if values is not None:
            array = np.ascontiguousarray(values)
            if array.nbytes > size.value:
                raise EngineError("the library takes another shape")
            address = ctypes.c_void_p()
            _call("LiteRtLockTensorBuffer", buffer, ctypes.byref(address), WRITE)
            ctypes.memmove(address, array.ctypes.data, array.nbytes)
            _call("LiteRtUnlockTensorBuffer", buffer)
        return buffer

    def _events(self) -> Iterator[KernelEvent]:
        count = ctypes.c_int()
        _call("LiteRtGetNumProfilerEvents", self._profiler, ctypes.byref(count))
        events = (_Event * count.value)()
        _call("LiteRtGetProfilerEvents", self._profiler, count, events)
        for event in events:
            if event.kind in (OPERATOR, DELEGATE_OPERATOR):
                name = (event.tag or b"").decode("utf-8", "replace")
                yield KernelEvent(name, event.node, event.kind == DELEGATE_OPERATOR, event.elapsed_us * 1e-6)


def _size(value: int) -> ctypes.c_size_t:
    return ctypes.c_size_t(value)
