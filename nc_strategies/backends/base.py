"""The interface of a backend."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from nc_strategies.backends.layers import LayerReader
from nc_strategies.calibration.recovery import LIMITS as RECOVERY_LIMITS
from nc_strategies.calibration.recovery import RecoveryRecord
from nc_strategies.errors import EngineError
from nc_strategies.models import ModelSource
from nc_strategies.models.info import Batch, ModelInfo
from nc_strategies.problem.latency import ConversionEdge
from nc_strategies.space import Capabilities, Config

if TYPE_CHECKING:
    from nc_strategies.backends.ceiling import Ceiling

FEW_PROFILED_RUNS = 4
"""Profiled runs of a profile that has to be quick; see `Executable.profile`."""


@dataclass(frozen=True)
class ExecutedOps:
    """Operators that an engine executed, counted by type. Data movement and conversions do not count.

    Args:
        int8: Operator type to the number that executed in int8.
        fp32: Operator type to the number that executed in floating point.
        int8_names: Names of the model's operators that executed in int8, where the engine's node names identify them.
        conversions: Number of quantize, dequantize and layout nodes that ran between them.
        modes: Of the operators in `int8`, those of other modes than static int8: mode (``dynamic``, ``weight_only``) to
            operator type to number.
        provider: Part of the engine that was asked to run the operators, such as an execution provider of onnxruntime;
            empty where the engine has no such parts, or runs everything on the CPU.
        fallback: Of the operators in `int8` and `fp32`, those that the CPU ran because `provider` did not take them:
            operator type to number.
    """

    int8: Mapping[str, int] = field(default_factory=Counter)
    fp32: Mapping[str, int] = field(default_factory=Counter)
    int8_names: frozenset[str] = frozenset()
    conversions: int = 0
    modes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    provider: str = ""
    fallback: Mapping[str, int] = field(default_factory=Counter)

    @property
    def fallback_count(self) -> int:
        """Number of operators that the CPU executed instead of `provider`."""
        return sum(self.fallback.values())

    @property
    def int8_count(self) -> int:
        """Number of operators that executed in int8."""
        return sum(self.int8.values())

    @property
    def fp32_count(self) -> int:
        """Number of operators that executed in floating point."""
        return sum(self.fp32.values())

    def by_type(self) -> dict[str, dict[str, int]]:
        """Operator type to the numbers that executed in ``int8`` and in ``fp32``.

        Where operators of a type executed in another mode than static int8, ``dynamic`` and ``weight_only`` say how
        many of those in ``int8`` did.
        """
        found = {
            op_type: {"int8": self.int8.get(op_type, 0), "fp32": self.fp32.get(op_type, 0)}
            for op_type in sorted({*self.int8, *self.fp32})
        }
        for mode, counts in self.modes.items():
            for op_type, count in counts.items():
                if count:
                    found[op_type][mode] = count
        return found


@dataclass(frozen=True)
class Profile:
    """Execution time of one run by operator, as the engine reports it.

    Profiling slows a run down, so only the shares of the total are meaningful.

    Args:
        ops: Seconds per operator of the model, including what the engine fused into it.
        conversions: Pairs (elements, seconds), one per quantization, dequantization and layout change.
        other: Seconds of all other nodes.
        nodes: Number of engine nodes behind each entry of `ops`; an operator that is missing has one.
        other_nodes: Number of engine nodes behind `other`.
        converted: For each of `conversions`, the operator whose result it converts; None for a model input and for an
            operator without a choice. Empty where the engine's nodes do not identify it.
    """

    ops: Mapping[str, float]
    conversions: tuple[tuple[int, float], ...] = ()
    other: float = 0.0
    nodes: Mapping[str, int] = field(default_factory=dict)
    other_nodes: int = 0
    converted: tuple[str | None, ...] = ()


class Executable(ABC):
    """A graph that is loaded into the engine and ready to run.

    Attributes:
        fingerprint: Hash of the executed graph; equal graphs have equal fingerprints.
        size_bytes: Size of the model as it would be saved, in bytes.
    """

    fingerprint: str
    size_bytes: int

    @abstractmethod
    def predict(self, batch: Batch) -> Sequence[NDArray[Any]]:
        """Run the graph once and return one array per output, in the model's order.

        Raises:
            EngineError: the engine could not run it.
        """

    @abstractmethod
    def executed(self) -> ExecutedOps:
        """The operators that the engine executes, read from the engine and not from the configuration."""

    def profile(self, batch: Batch, runs: int) -> Profile | None:
        """Time per operator over a number of profiled runs; None where the engine has no profiler.

        Who asks for at most `FEW_PROFILED_RUNS` has little time: a backend takes no longer than these runs then.

        Raises:
            EngineError: the engine could not run it.
        """
        return None

    def close(self) -> None:  # noqa: B027 - optional, nothing to release by default
        """Release the engine's memory."""


class DualPrecisionSession(ABC):
    """One graph that holds an int8 and a floating-point branch of every operator; each run selects the branches.

    It runs slower than the graph of one configuration, but no graph has to be built per configuration. This pays when
    many configurations are evaluated on few samples.

    Attributes:
        ops: Names of the operators whose precision can be selected.
    """

    ops: tuple[str, ...]

    @abstractmethod
    def predict(self, batch: Batch, int8: Collection[str]) -> Sequence[NDArray[Any]]:
        """Run the graph once and return one array per output.

        Args:
            batch: Samples.
            int8: Names of the operators that run in int8. Tensors between operators are floating point.

        Raises:
            EngineError: the engine could not run it.
        """

    def close(self) -> None:  # noqa: B027 - optional, nothing to release by default
        """Release the engine's memory."""


class Backend(ABC):
    """An engine: it lists the schemes that each operator of a model can use, and builds a graph per configuration.

    Call `load` first, then `capabilities` and `calibrate`, then `build` as often as needed.

    Args:
        settings: The backend's settings, an instance of the schema that it is registered with.
        threads: Threads that the engine may use per run.
    """

    accepts: tuple[str, ...] = ()
    """Model formats that it can load, the preferred one first."""
    cautious: bool = False
    """True after a crash during calibration: calibration then runs the fp32 model only."""
    largest_batch: int | None = None
    """Set by `calibrate`: the largest number of samples that a run should get, because the model refuses more or its
    activations would take too much memory; None where it is unknown."""
    recovery: tuple[RecoveryRecord, ...] = ()
    """Set by `calibrate`: what each recovery method brought, see `nc_strategies.calibration.recovery`."""
    recovery_seconds: float = RECOVERY_LIMITS.seconds
    """Seconds that recovery may take in `calibrate`."""
    clock: Callable[[], float] = time.perf_counter
    """The clock, in seconds, that latency is measured with. A simulated engine has one of its own."""

    saturates_there: bool = False
    """Set before `load`: sums of 8-bit products overflow 16 bits on the machine that the model is for, if that is
    another one. A backend that gives weights 7 bits where this processor's kernels saturate gives them then, too."""

    gradients: bool = False
    """Whether the engine can differentiate models, as `hessian` does."""
    float_tolerance: float = 0.0
    """Greatest difference, relative to the largest output, between the model as given and its all-float graph, where
    the engine computes the two in different floating-point types; 0 where the types are the same."""

    def __init__(self, settings: Any, threads: int = 1) -> None:
        self.settings = settings
        self.threads = threads

    @abstractmethod
    def load(self, model: ModelSource) -> ModelInfo:
        """Open the fp32 model.

        Raises:
            InputError: this backend does not support the model.
        """

    def use_axes(self, info: ModelInfo) -> None:  # noqa: B027 - optional, axis 0 is the default
        """Receive the model's inputs and outputs again, with the axes that count samples as the data shows them.

        It is called between `load` and `calibrate`. The batches of later calls are feeds of this form.
        """

    def companions(self, path: Path) -> tuple[Path, ...]:
        """Further files that hold a part of the model, such as external weights; called before `load`.

        Args:
            path: The model in a format that the backend accepts.
        """
        return ()

    @abstractmethod
    def capabilities(self) -> Capabilities:
        """The schemes that can be chosen for the loaded model. The engine executes every one of them.

        Called again after `calibrate`, it may leave out operators whose values int8 cannot represent.
        """

    @abstractmethod
    def calibrate(self, batches: Sequence[Batch]) -> None:
        """Run the fp32 model on calibration data and collect the statistics that every calibration algorithm needs."""

    @abstractmethod
    def reference(self) -> Executable:
        """The model as given, run with the engine's defaults."""

    @abstractmethod
    def build(self, config: Config) -> Executable:
        """Build the graph of a configuration and load it into the engine.

        Raises:
            EngineError: the engine could not build it.
        """

    def dual_precision_session(self, config: Config) -> DualPrecisionSession | None:
        """Build one graph with both precisions of every operator; None where the backend has no such graph.

        Args:
            config: Schemes of the int8 branches.

        Raises:
            EngineError: the engine could not build it.
        """
        return None

    def hessian(self, batch: Batch, draws: int) -> Mapping[str, float]:
        """Average Hessian trace times squared weight error, by operator with a weight; see `gradients`.

        The Hessian is that of half the squared difference of the output from fp32's, relative to the signal.

        Args:
            batch: Samples.
            draws: Number of random vectors that the trace is estimated with.

        Raises:
            EngineError: the engine gives no gradients, or cannot differentiate this model.
        """
        raise EngineError("the engine gives no gradients")

    def layers(self, config: Config, alone: Config) -> LayerReader | None:
        """Read the outputs of single operators; optional, None where the backend cannot.

        Args:
            config: The configuration whose errors accumulate from operator to operator.
            alone: The scheme of each operator when it alone is quantized; those in floating point are not read.

        Raises:
            EngineError: the engine cannot build the graphs.
        """
        return None

    @abstractmethod
    def save(self, config: Config, folder: Path) -> Path:
        """Write the graph of a configuration so that the engine, with its defaults, runs it as it was measured.

        Returns:
            The path that a user opens.
        """

    def save_reference(self, folder: Path) -> Path | None:
        """Write the model as given so that `open` runs it as `reference` does, for timing it on another machine.

        Args:
            folder: A folder to create.

        Returns:
            The path that is opened; None where the engine cannot, so that its all-float graph stands for it there.
        """
        return None

    @abstractmethod
    def open(self, path: Path) -> Executable:
        """Open a saved model with the engine's defaults, as a user would. It serves to verify what `save` wrote.

        It can be called on a backend without a loaded model; `executed` need not work then.
        """

    def open_to_time(self, path: Path) -> Executable:
        """Open a saved model as the run timed it: with this backend's threads, and as directly as `reference`.

        It can be called on a backend without a loaded model. The default is `open`.
        """
        return self.open(path)

    def conversion_edges(self) -> tuple[ConversionEdge[str], ...]:
        """The tensors at which int8 operators may border on floating-point operators.

        The default derives them from `capabilities`: one tensor per operator, with the size of its output.
        """
        capabilities = self.capabilities()
        elements = {op.name: op.elements for op in capabilities.ops}
        consumers: dict[str, dict[str, None]] = {}
        for producer, consumer in capabilities.edges:
            consumers.setdefault(producer, {})[consumer] = None
        return tuple(ConversionEdge(name, tuple(readers), elements[name]) for name, readers in consumers.items())

    def native(self, config: Config | None) -> Any:
        """A model as an object of the engine's framework, which the user's own evaluation function receives.

        Args:
            config: The configuration to build; None for the model as given.

        Returns:
            An object of the engine's framework; an `Executable` where the engine has none of its own.
        """
        return self.reference() if config is None else self.build(config)

    def keep(self, folder: Path) -> None:  # noqa: B027 - optional, nothing to keep by default
        """Copy intermediate models into the run's folder, such as the model converted to another format."""

    def remarks(self) -> tuple[str, ...]:
        """Changes that calibration made to the model and that the user should know, one sentence per change."""
        return ()

    def ceiling(self, again: bool = False) -> Ceiling | None:
        """How much faster than fp32 this engine's int8 operators are here, with this backend's threads; optional.

        It is called on a fresh backend, too. A first measurement takes at most 3 s and is kept in the user's cache;
        `nc_strategies.backends.ceiling` has what measures and keeps it.

        Args:
            again: Measure whatever the cache holds.

        Returns:
            None where it is unknown.
        """
        return None

    def versions(self) -> dict[str, str]:
        """Versions of the packages that the backend depends on."""
        return {}
