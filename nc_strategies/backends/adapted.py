"""A backend behind the border that converts the project's batches to the engine's feeds, whatever the engine is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nc_strategies.backends.base import Backend, DualPrecisionSession, Executable, ExecutedOps, Profile
from nc_strategies.backends.ceiling import Ceiling
from nc_strategies.backends.collection import InTime, leaves
from nc_strategies.backends.layers import LayerReader, Read
from nc_strategies.calibration.recovery import RecoveryRecord
from nc_strategies.models import ModelSource
from nc_strategies.models.feeds import Feeds, SequenceStep
from nc_strategies.models.info import Batch, ModelInfo
from nc_strategies.problem.latency import ConversionEdge
from nc_strategies.space import Capabilities, Config


class LazyFeeds(Sequence[Batch]):
    """The feeds of batches, each made when it is read."""

    def __init__(self, batches: Sequence[Batch], feeds: Feeds) -> None:
        self._batches, self._feeds = batches, feeds

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: Any) -> Any:
        """The feed of one batch, or of a range of batches."""
        if isinstance(index, slice):
            return LazyFeeds(self._batches[index], self._feeds)
        return self._feeds.engine(self._batches[index])

    def __iter__(self) -> Iterator[Batch]:
        return map(self._feeds.engine, self._batches)

    def expect_passes(self, count: int) -> None:
        """See `nc_strategies.backends.collection.InTime`."""
        if isinstance(self._batches, InTime):
            self._batches.expect_passes(count)

    def leaves(self, seconds: float) -> bool:
        """See `nc_strategies.backends.collection.InTime`."""
        return leaves(self._batches, seconds)


class AdaptedExecutable(Executable):
    """An executable that takes the project's batches, and carries state along sequences.

    Each executable carries the state that it computed itself, as it would when it is deployed. A batch that is no
    `SequenceStep` starts at zero state.

    Args:
        inner: The engine's executable.
        feeds: The conversion.

    Attributes:
        carried: State input to the position of the output that it gets in the next step.
    """

    def __init__(self, inner: Executable, feeds: Feeds) -> None:
        self._inner, self._feeds = inner, feeds
        self.fingerprint, self.size_bytes = inner.fingerprint, inner.size_bytes
        self._state: dict[int, dict[str, NDArray[Any]]] = {}
        self._last: tuple[Batch, Batch] | None = None
        names = [spec.name for spec in feeds.info.outputs]
        self.carried = {name: names.index(output) for name, output in feeds.state.items()}

    def predict(self, batch: Batch) -> Sequence[NDArray[Any]]:
        """See `Executable.predict`. Each output counts samples on axis 0."""
        if isinstance(batch, SequenceStep) and self.carried:
            return self._step(self.with_state(batch), batch)
        return self._feeds.outputs(self._inner.predict(self._feed(batch)))

    def with_state(self, step: SequenceStep) -> Batch:
        """The batch of a step with the state of its sequences."""
        rows: dict[str, NDArray[Any]] = {}
        for name in self.carried:
            array = self._feeds.zeros(name, len(step.sequences))
            for index, (number, start) in enumerate(zip(step.sequences.tolist(), step.starts.tolist(), strict=True)):
                if not start and number in self._state:
                    array[index] = self._state[number][name]
            rows[name] = array
        return {**step, **rows}

    def _step(self, batch: Batch, step: SequenceStep) -> Sequence[NDArray[Any]]:
        outputs = self._feeds.outputs(self._inner.predict(self._feeds.engine(batch)))
        for index, number in enumerate(step.sequences.tolist()):
            if number >= 0:
                self._state[number] = {name: outputs[place][index].copy() for name, place in self.carried.items()}
        return outputs

    def _feed(self, batch: Batch) -> Batch:
        """The engine's feed. That of the last batch is kept, so that timed runs of one batch convert it once."""
        if self._last is None or self._last[0] is not batch:
            self._last = batch, self._feeds.engine(batch)
        return self._last[1]

    def executed(self) -> ExecutedOps:
        """See `Executable.executed`."""
        return self._inner.executed()

    def profile(self, batch: Batch, runs: int) -> Profile | None:
        """See `Executable.profile`."""
        return self._inner.profile(self._feeds.engine(batch), runs)

    def close(self) -> None:
        """See `Executable.close`."""
        self._inner.close()
        self._state.clear()
        self._last = None


class AdaptedDualPrecisionSession(DualPrecisionSession):
    """A dual-precision session that takes the project's batches."""

    def __init__(self, inner: DualPrecisionSession, feeds: Feeds) -> None:
        self._inner, self._feeds, self.ops = inner, feeds, inner.ops

    def predict(self, batch: Batch, int8: Collection[str]) -> Sequence[NDArray[Any]]:
        """See `DualPrecisionSession.predict`."""
        return self._feeds.outputs(self._inner.predict(self._feeds.engine(batch), int8))

    def close(self) -> None:
        """See `DualPrecisionSession.close`."""
        self._inner.close()


class AdaptedLayers(LayerReader):
    """A reader of operators' outputs that takes the project's batches."""

    def __init__(self, inner: LayerReader, feeds: Feeds) -> None:
        self._inner, self._feeds, self.layers = inner, feeds, inner.layers

    def shapes(self, batch: Batch) -> Mapping[str, tuple[int, ...]]:
        """See `LayerReader.shapes`."""
        return self._inner.shapes(self._feeds.engine(batch))

    def reader(self, names: Sequence[str]) -> Read:
        """See `LayerReader.reader`."""
        read = self._inner.reader(names)
        return lambda batch: read(self._feeds.engine(batch))

    def close(self) -> None:
        """See `LayerReader.close`."""
        self._inner.close()


class AdaptedBackend(Backend):
    """A backend whose executables take the project's batches.

    Args:
        inner: The engine's backend, loaded.
        feeds: The conversion.
    """

    def __init__(self, inner: Backend, feeds: Feeds) -> None:
        super().__init__(inner.settings, inner.threads)
        self.inner, self.feeds = inner, feeds
        self.accepts, self.cautious, self.clock = inner.accepts, inner.cautious, inner.clock
        self.gradients = inner.gradients

    @property
    def largest_batch(self) -> int | None:  # type: ignore[override]
        """See `Backend.largest_batch`."""
        return self.inner.largest_batch

    @property
    def recovery(self) -> tuple[RecoveryRecord, ...]:  # type: ignore[override]
        """See `Backend.recovery`."""
        return self.inner.recovery

    def load(self, model: ModelSource) -> ModelInfo:
        """See `Backend.load`."""
        return self.inner.load(model)

    def companions(self, path: Path) -> tuple[Path, ...]:
        """See `Backend.companions`."""
        return self.inner.companions(path)

    def capabilities(self) -> Capabilities:
        """See `Backend.capabilities`."""
        return self.inner.capabilities()

    def calibrate(self, batches: Sequence[Batch]) -> None:
        """See `Backend.calibrate`."""
        self.inner.cautious, self.inner.recovery_seconds = self.cautious, self.recovery_seconds
        self.inner.calibrate(LazyFeeds(batches, self.feeds))

    def reference(self) -> AdaptedExecutable:
        """See `Backend.reference`."""
        return AdaptedExecutable(self.inner.reference(), self.feeds)

    def build(self, config: Config) -> AdaptedExecutable:
        """See `Backend.build`."""
        return AdaptedExecutable(self.inner.build(config), self.feeds)

    def dual_precision_session(self, config: Config) -> DualPrecisionSession | None:
        """See `Backend.dual_precision_session`."""
        session = self.inner.dual_precision_session(config)
        return None if session is None else AdaptedDualPrecisionSession(session, self.feeds)

    def hessian(self, batch: Batch, draws: int) -> Mapping[str, float]:
        """See `Backend.hessian`."""
        return self.inner.hessian(self.feeds.engine(batch), draws)

    def layers(self, config: Config, alone: Config) -> LayerReader | None:
        """See `Backend.layers`."""
        found = self.inner.layers(config, alone)
        return None if found is None else AdaptedLayers(found, self.feeds)

    def save(self, config: Config, folder: Path) -> Path:
        """See `Backend.save`: the saved model has the inputs and outputs of the model as given."""
        return self.inner.save(config, folder)

    def save_reference(self, folder: Path) -> Path | None:
        """See `Backend.save_reference`."""
        return self.inner.save_reference(folder)

    def open(self, path: Path) -> AdaptedExecutable:
        """See `Backend.open`."""
        return AdaptedExecutable(self.inner.open(path), self.feeds)

    def open_to_time(self, path: Path) -> AdaptedExecutable:
        """See `Backend.open_to_time`."""
        return AdaptedExecutable(self.inner.open_to_time(path), self.feeds)

    def conversion_edges(self) -> tuple[ConversionEdge[str], ...]:
        """See `Backend.conversion_edges`."""
        return self.inner.conversion_edges()

    def native(self, config: Config | None) -> Any:
        """See `Backend.native`."""
        return self.inner.native(config)

    def keep(self, folder: Path) -> None:
        """See `Backend.keep`."""
        self.inner.keep(folder)

    def remarks(self) -> tuple[str, ...]:
        """See `Backend.remarks`."""
        return self.inner.remarks()

    def ceiling(self, again: bool = False) -> Ceiling | None:
        """See `Backend.ceiling`."""
        return self.inner.ceiling(again)

    def versions(self) -> dict[str, str]:
        """See `Backend.versions`."""
        return self.inner.versions()


def adapt(backend: Backend, feeds: Feeds) -> Backend:
    """A loaded backend that takes the project's batches: the backend itself if these are the engine's feeds.

    Args:
        backend: The engine's backend, or what an earlier call returned.
        feeds: The conversion.
    """
    inner = backend.inner if isinstance(backend, AdaptedBackend) else backend
    inner.use_axes(feeds.info)
    return inner if feeds.is_plain else AdaptedBackend(inner, feeds)
