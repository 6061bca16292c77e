"""onnxruntime's execution providers: which of them runs a session's operators, in front of the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort
from onnx import TensorProto, helper

from nc_strategies.errors import EngineError, InputError, first_line
from nc_strategies.onnx_graph.interpreter import open_session, options

KEY, OPTIONS_KEY = "backend.provider", "backend.provider_options"
SUFFIX = "ExecutionProvider"
"""End of the engine's own names of its providers."""
CPU_NAME = "CPUExecutionProvider"
COMPILED = "compiled nodes"
"""Part of the engine's message when it is asked to write a graph whose operators a provider has compiled together."""


@dataclass(frozen=True)
class Provider:
    """The execution provider of a session. The engine hands the operators that it does not take to the CPU.

    Args:
        name: The engine's name of it.
        options: Pairs (name, value) of its options, see the engine's documentation of the provider.
    """

    name: str = CPU_NAME
    options: tuple[tuple[str, str], ...] = ()

    @property
    def short(self) -> str:
        """Its name as the setting ``provider`` takes it: ``cuda`` for ``CUDAExecutionProvider``."""
        return short_name(self.name)

    @property
    def is_cpu(self) -> bool:
        """Whether it is the CPU, to which nothing can be handed back."""
        return self.name == CPU_NAME

    def for_session(self) -> list[Any]:
        """The argument ``providers`` of a session: this provider, then the CPU."""
        first = (self.name, dict(self.options))
        return [first] if self.is_cpu else [first, CPU_NAME]

    def cache_key(self) -> list[Any]:
        """What distinguishes its probes in the user's cache; nothing for the CPU without options."""
        return [] if self == CPU else [self.name, [list(pair) for pair in self.options]]

    def check(self) -> None:
        """Start the provider in a small session: without its driver or device, the engine falls back to the CPU.

        Raises:
            InputError: the provider does not start, or refuses its options.
        """
        if self == CPU:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the fallback is told as a warning, and read from the session below
                started = open_session(_small_model(), options(), self.for_session()).get_providers()
        except Exception as error:  # onnxruntime has one exception class per status code
            key = OPTIONS_KEY if self.options else KEY
            given = dict(self.options) if self.options else repr(self.short)
            raise InputError(key, f"is {given}, with which {self.name} does not start: {first_line(error)}") from error
        if self.name not in started:
            raise InputError(
                KEY, f"is {self.short!r}, which does not start on this machine", "its driver and device, or cpu"
            )


CPU = Provider()


def short_name(name: str) -> str:
    """A provider's name as the setting ``provider`` takes it."""
    return name.removesuffix(SUFFIX).lower()


def chosen(name: str, given: Any, installed: Sequence[str] | None = None) -> Provider:
    """The provider that settings choose.

    Args:
        name: A short name such as ``cuda``, or the engine's own name.
        given: Mapping of options of the provider to text, numbers or booleans; None for none.
        installed: Providers of the installed engine; asked of the engine by default.

    Raises:
        InputError: the installed engine does not have it, or its options are no mapping.
    """
    if given is not None and not isinstance(given, Mapping):
        raise InputError(OPTIONS_KEY, f"is {given!r}", "a mapping of option to value, such as {device_id: 1}")
    has = {short_name(each): each for each in (ort.get_available_providers() if installed is None else installed)}
    found = has.get(short_name(str(name)))
    if found is None:
        raise InputError(
            KEY,
            f"is {name!r}, which the installed onnxruntime {ort.__version__} does not have",
            f"it has {', '.join(sorted(has))}",
        )
    return Provider(found, tuple(sorted((str(key), _text(value)) for key, value in (given or {}).items())))


def _text(value: Any) -> str:
    """An option's value as the engine takes it."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def refusal(error: Exception, provider: Provider) -> Exception:
    """The error to raise when the engine refuses to write its optimized graph."""
    if COMPILED in str(error) and not provider.is_cpu:
        return InputError(
            KEY,
            f"is {provider.short!r}, which compiles operators together, so that what it executes in int8 cannot be "
            "read from the engine",
            "a provider that runs operators one by one",
        )
    return EngineError(f"onnxruntime refuses the model: {first_line(error)}")


def _small_model() -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", values[:1], values[1:])
    model: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    ).SerializeToString()
    return model
