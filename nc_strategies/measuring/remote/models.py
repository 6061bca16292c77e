"""Models that are built here and timed on another machine, and the backend and the timer of such models."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.backends.adapted import AdaptedBackend, AdaptedExecutable
from nc_strategies.backends.base import Backend, Executable, ExecutedOps, Profile
from nc_strategies.backends.ceiling import Ceiling
from nc_strategies.errors import EngineError
from nc_strategies.measuring.deadline import Check, unlimited
from nc_strategies.measuring.latency import Timing
from nc_strategies.measuring.lengths import TimedBatch
from nc_strategies.measuring.remote.session import RemoteModel, RemoteSession
from nc_strategies.measuring.remote.store import Parcel, Parcels, pack
from nc_strategies.measuring.reopening import Reopening
from nc_strategies.measuring.timer import unending
from nc_strategies.models.feeds import Feeds
from nc_strategies.models.info import Batch
from nc_strategies.space import Config, Space

ON_HOST, ON_TARGET = "host", "target"
"""Where accuracy is evaluated."""


class RemoteExecutable(Executable):
    """A model that runs on the other machine, with the engine's own feeds.

    Args:
        model: The model there.
        session: The use of that machine.
    """

    fingerprint, size_bytes = "", 0

    def __init__(self, model: RemoteModel, session: RemoteSession) -> None:
        self._model, self._session = model, session

    def predict(self, batch: Batch) -> Sequence[NDArray[Any]]:
        """See `Executable.predict`."""
        return self._session.predict(self._model, batch)

    def executed(self) -> ExecutedOps:
        """See `Executable.executed`; only the model here says it."""
        raise EngineError("executed operators are read where the model was built")


class Twin(Executable):
    """A model here, and the same one on the other machine. Each is opened when it is used.

    Args:
        make: Opens it here.
        parcel: Returns its files.
        parcels: Takes them back.
        session: The use of the other machine.
        feeds: Conversion to the engine's feeds.
    """

    def __init__(
        self,
        make: Callable[[], Executable],
        parcel: Callable[[], Parcel],
        parcels: Parcels,
        session: RemoteSession,
        feeds: Feeds,
    ) -> None:
        self._make, self._parcel, self._parcels, self._session, self.feeds = make, parcel, parcels, session, feeds
        self._facts: tuple[str, int] | None = None
        self._here: Executable | None = None
        self._there: RemoteModel | None = None

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        """See `Executable`."""
        return self._known()[0]

    @property
    def size_bytes(self) -> int:  # type: ignore[override]
        """See `Executable`."""
        return self._known()[1]

    def _known(self) -> tuple[str, int]:
        """Fingerprint and size, for which a closed model is not opened again."""
        if self._facts is None:
            self.open()
        assert self._facts is not None
        return self._facts

    def open(self) -> Executable:
        """Open the model here, unless it is open.

        Raises:
            EngineError: the engine cannot build it.
        """
        if self._here is None:
            self._here = self._make()
            self._facts = self._here.fingerprint, self._here.size_bytes
        return self._here

    @property
    def there(self) -> RemoteModel:
        """The model on the other machine.

        Raises:
            EngineError: the engine cannot build it.
        """
        if self._there is None:
            self._there = self._session.model(self._parcel())
        return self._there

    def on_target(self) -> Executable:
        """The model as one that runs on the other machine."""
        return AdaptedExecutable(RemoteExecutable(self.there, self._session), self.feeds)

    def predict(self, batch: Batch) -> Sequence[NDArray[Any]]:
        """See `Executable.predict`: it runs here."""
        return self.open().predict(batch)

    def executed(self) -> ExecutedOps:
        """See `Executable.executed`: what the engine executes here."""
        return self.open().executed()

    def profile(self, batch: Batch, runs: int) -> Profile | None:
        """See `Executable.profile`: it runs here."""
        return self.open().profile(batch, runs)

    def close(self) -> None:
        """See `Executable.close`: on both machines, until it is used again."""
        here, self._here = self._here, None
        there, self._there = self._there, None
        if here is not None:
            here.close()
        if there is not None:
            self._session.release(there)
            self._parcels.give_back(there.parcel)


class TwinBackend(AdaptedBackend):
    """A backend that builds here, and whose models are timed on another machine by what it saves of them.

    Args:
        backend: The engine's backend, or one that converts batches for it.
        feeds: The conversion.
        session: The use of the other machine.
    """

    def __init__(self, backend: Backend, feeds: Feeds, session: RemoteSession) -> None:
        super().__init__(backend.inner if isinstance(backend, AdaptedBackend) else backend, feeds)
        self.float_tolerance = backend.float_tolerance
        self._session = session
        self._parcels = Parcels()
        self._built: set[str] = set()
        self._folders = itertools.count()

    def reference(self) -> Twin:  # type: ignore[override]
        """See `Backend.reference`. Where the backend cannot save it, its all-float graph is timed instead."""
        return self._twin(super().reference, "as given", self._save_reference)

    def build(self, config: Config) -> Twin:  # type: ignore[override]
        """See `Backend.build`; a model that was built before is built again at its first use here."""
        name = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()
        return self._twin(lambda: AdaptedBackend.build(self, config), name, lambda folder: self._save(config, folder))

    def open(self, path: Path) -> Twin:  # type: ignore[override]
        """See `Backend.open`."""
        return self._twin(lambda: AdaptedBackend.open(self, path), f"saved {path}", lambda _: path)

    def ceiling(self, again: bool = False) -> Ceiling | None:
        """See `Backend.ceiling`: that of the other machine."""
        return self._session.ceiling(again)

    def _twin(self, make: Callable[[], Executable], name: str, save: Callable[[Path], Path]) -> Twin:
        def parcel() -> Parcel:
            return self._parcels.take(name, lambda: self._packed(save))

        twin = Twin(make, parcel, self._parcels, self._session, self.feeds)
        if name not in self._built:  # the errors and the time of building belong here
            twin.open()
            self._built.add(name)
        return twin

    def _packed(self, save: Callable[[Path], Path]) -> Parcel:
        """What a model is opened from there."""
        place = self._session.folder / f"model-{next(self._folders)}"
        try:
            path = save(place)
            # A file that was saved earlier travels with those that lie beside it, such as external weights.
            folder = path if path.is_dir() else path.parent
            return pack(path, folder, place.with_suffix(".zip"))
        except OSError as error:
            raise EngineError(f"the model cannot be packed ({error.strerror})") from error
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _save(self, config: Config, folder: Path) -> Path:
        return self.inner.save(config, folder)

    def _save_reference(self, folder: Path) -> Path:
        path = self.inner.save_reference(folder)
        return self.inner.save(Space(self.inner.capabilities()).all_float(), folder) if path is None else path


class RemoteTimer:
    """Times models on another machine; see `Timer`.

    Args:
        session: The use of that machine.
        accuracy_on: Where accuracy is evaluated, `ON_HOST` or `ON_TARGET`.
    """

    def __init__(self, session: RemoteSession, accuracy_on: str = ON_HOST) -> None:
        self._session, self._accuracy_on = session, accuracy_on

    def time(
        self,
        models: Sequence[Executable],
        batches: Sequence[TimedBatch],
        runs: int,
        rng: np.random.Generator,
        limit: float = 0.0,
        check: Check = unlimited,
        left: Callable[[], float] = unending,
    ) -> Timing:
        """See `Timer.time`."""
        check()
        twins = [_twin(model) for model in models]
        engine_batches = [
            TimedBatch(twins[0].feeds.engine(b.batch), b.weight, b.length, b.phase, b.tokens) for b in batches
        ]
        seed = int(rng.integers(2**32))
        return self._session.time([twin.there for twin in twins], engine_batches, runs, seed, limit, check, left)

    def prepare(self, models: Sequence[Executable], check: Check = unlimited) -> None:
        """See `Timer.prepare`."""
        self._session.send([_twin(model).there.parcel for model in models], check)

    def evaluated(self, models: Sequence[Executable]) -> list[Executable]:
        """See `Timer.evaluated`."""
        if self._accuracy_on == ON_HOST:
            return list(models)
        return [_twin(model).on_target() for model in models]

    def peak_bytes(self, backend: Backend, config: Config, batch: Batch) -> int:
        """See `Timer.peak_bytes`."""
        assert isinstance(backend, TwinBackend)
        model = backend.build(config)
        try:
            return self._session.peak_bytes(model.there.parcel, backend.feeds.engine(batch))
        finally:
            model.close()


def _twin(model: Executable) -> Twin:
    inner = model.inner if isinstance(model, Reopening) else model
    if not isinstance(inner, Twin):
        raise TypeError(f"{type(inner).__name__} has no counterpart on the target")
    return inner
