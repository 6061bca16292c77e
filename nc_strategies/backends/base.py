"""The interface of a backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from nc_strategies.models import ModelSource
from nc_strategies.models.info import Batch, ModelInfo
from nc_strategies.problem.latency import ConversionEdge
from nc_strategies.space import Capabilities, Config

if TYPE_CHECKING:
    from nc_strategies.backends.ceiling import Ceiling


@dataclass(frozen=True)
class ExecutedOps:
    """The computing operators which an engine really ran, by type. Data movement and conversions do not count.

    Args:
        int8: Operator type to the number that executed in int8.
        fp32: Operator type to the number that executed in floating point.
        int8_names: Names of the model's operators among the former, where they can be told.
        conversions: Number of quantize, dequantize and layout nodes that ran between them.
    """

    int8: Mapping[str, int] = field(default_factory=Counter)
    fp32: Mapping[str, int] = field(default_factory=Counter)
    int8_names: frozenset[str] = frozenset()
    conversions: int = 0

    @property
    def int8_count(self) -> int:
        """Operators that executed in int8."""
        return sum(self.int8.values())

    @property
    def fp32_count(self) -> int:
        """Operators that executed in floating point."""
        return sum(self.fp32.values())

    def by_type(self) -> dict[str, dict[str, int]]:
        """Operator type to how many executed in ``int8`` and in ``fp32``."""
        kinds = sorted({*self.int8, *self.fp32})
        return {kind: {"int8": self.int8.get(kind, 0), "fp32": self.fp32.get(kind, 0)} for kind in kinds}


@dataclass(frozen=True)
class Profile:
    """Where an engine says the time of one run went; profiling slows a run down, so only the shares count.

    Args:
        ops: Seconds by operator of the model, what the engine fused into it included.
        conversions: Pairs (elements, seconds), one for each quantization, dequantization and change of layout.
        other: Seconds of everything else.
        nodes: How many of the engine's own nodes each entry of `ops` stands for; one, where it is not named.
        other_nodes: The same of `other`.
        converted: For each of `conversions` the operator whose result it converts; None for an input's, or that of an
            operator without a choice. Empty where the engine's nodes do not tell.
    """

    ops: Mapping[str, float]
    conversions: tuple[tuple[int, float], ...] = ()
    other: float = 0.0
    nodes: Mapping[str, int] = field(default_factory=dict)
    other_nodes: int = 0
    converted: tuple[str | None, ...] = ()


class Executable(ABC):
    """A graph, loaded into the engine and ready to run.

    Attributes:
        fingerprint: Hash of the executed graph: the same graph, the same fingerprint.
        size_bytes: Size of the model as it would be saved, in bytes.
    """

    fingerprint: str
    size_bytes: int

    @abstractmethod
    def predict(self, batch: Batch) -> Sequence[NDArray[Any]]:
        """Run the graph once; one array an output, in the model's order.

        Raises:
            EngineError: the engine could not run it.
        """

    @abstractmethod
    def executed(self) -> ExecutedOps:
        """What the engine executes, read from the engine, not from what was asked for."""

    def profile(self, batch: Batch, runs: int) -> Profile | None:
        """Medians over a number of profiled runs; None where the engine has no profiler.

        Raises:
            EngineError: the engine could not run it.
        """
        return None

    def close(self) -> None:  # noqa: B027 - optional, nothing to release by default
        """Release the engine's memory."""


class DualPrecisionSession(ABC):
    """One graph with both forms of every operator, between which each run chooses.

    It is slower than a configuration's own graph, but spares one graph a configuration: for many questions about few
    samples.

    Attributes:
        ops: Names of the operators that can be switched.
    """

    ops: tuple[str, ...]

    @abstractmethod
    def predict(self, batch: Batch, int8: Collection[str]) -> Sequence[NDArray[Any]]:
        """Run the graph once; one array an output.

        Args:
            batch: Samples.
            int8: Names of the operators that run in int8; the tensors between operators are floating point.

        Raises:
            EngineError: the engine could not run it.
        """

    def close(self) -> None:  # noqa: B027 - optional, nothing to release by default
        """Release the engine's memory."""


class Backend(ABC):
    """An engine: what it can run of a model, and how a configuration becomes a graph it runs.

    Call `load` first, then `capabilities`, `calibrate`, and `build` as often as needed.

    Args:
        settings: The backend's own settings, an instance of the schema it is registered with.
        threads: Threads the engine may use for one run.
    """

    accepts: tuple[str, ...] = ()
    """Model formats it can load, the preferred one first."""
    cautious: bool = False
    """Calibration took the process down before: it shall now run nothing but the fp32 model."""

    def __init__(self, settings: Any, threads: int = 1) -> None:
        self.settings = settings
        self.threads = threads

    @abstractmethod
    def load(self, model: ModelSource) -> ModelInfo:
        """Open the fp32 model.

        Raises:
            InputError: it is not a model this backend can work on.
        """

    def companions(self, path: Path) -> tuple[Path, ...]:
        """Files beside a model's own that hold a part of it, asked for before it is loaded.

        Args:
            path: The model in a format that the backend accepts.
        """
        return ()

    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What can be chosen for the loaded model: every scheme offered is one the engine executes."""

    @abstractmethod
    def calibrate(self, batches: Sequence[Batch]) -> None:
        """Run the fp32 model on calibration data and keep what every calibration algorithm needs."""

    @abstractmethod
    def reference(self) -> Executable:
        """The model as it was given, run by the engine the way a user would run it."""

    @abstractmethod
    def build(self, config: Config) -> Executable:
        """The graph of a configuration.

        Raises:
            EngineError: the engine could not build it.
        """

    def dual_precision_session(self, config: Config) -> DualPrecisionSession | None:
        """Both forms of every operator in one graph, the int8 ones as in a configuration; None where there is none.

        Raises:
            EngineError: the engine could not build it.
        """
        return None

    @abstractmethod
    def save(self, config: Config, folder: Path) -> Path:
        """Write the graph of a configuration so that the plain engine runs it as it was measured.

        Returns:
            The path a user opens.
        """

    @abstractmethod
    def open(self, path: Path) -> Executable:
        """Open a saved model with the engine's defaults, as a user would: what `save` promises is checked with it.

        It can be called on a fresh backend, too; what `executed` says need not work then.
        """

    def conversion_edges(self) -> tuple[ConversionEdge[str], ...]:
        """The tensors at which int8 may meet floating point.

        What is known of them from `capabilities` by default: a tensor an operator, no sizes but the output's.
        """
        capabilities = self.capabilities()
        elements = {op.name: op.elements for op in capabilities.ops}
        consumers: dict[str, dict[str, None]] = {}
        for producer, consumer in capabilities.edges:
            consumers.setdefault(producer, {})[consumer] = None
        return tuple(ConversionEdge(name, tuple(readers), elements[name]) for name, readers in consumers.items())

    def native(self, config: Config | None) -> Any:
        """A model as the user of the engine knows it, for a function of the user's that evaluates it.

        Args:
            config: What to build; None for the model as given.

        Returns:
            An object of the engine's framework; an `Executable` where the engine has none of its own.
        """
        return self.reference() if config is None else self.build(config)

    def keep(self, folder: Path) -> None:  # noqa: B027 - optional, nothing to keep by default
        """Leave in the run's folder what the run made of the model to work on, such as its form in another format."""

    def remarks(self) -> tuple[str, ...]:
        """What calibration did to the model that its user should know, a sentence each; optional."""
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
        """Versions of the packages the backend stands on."""
        return {}
