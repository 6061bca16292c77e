"""Large models: as few of them as possible are open at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from nc_strategies.backends.base import Executable, ExecutedOps, Profile
from nc_strategies.models.info import Batch


@dataclass(frozen=True)
class OpenRules:
    """How many models are open at a time.

    Args:
        large_bytes: Size of fp32 from which only one fp32 model and one other are open at a time. Below it, models that
            are compared are all timed in the same session, which gives the narrowest interval.
    """

    large_bytes: int = 2**28


OPEN_RULES = OpenRules()


class Reopening(Executable):
    """An executable that can be closed for a while; it opens itself when it is used again.

    Args:
        make: Opens it.
        opened: What `make` would return, if it is open already.
    """

    def __init__(self, make: Callable[[], Executable], opened: Executable | None = None) -> None:
        self._make = make
        self._inner: Executable | None = opened or make()
        self.fingerprint, self.size_bytes = self._inner.fingerprint, self._inner.size_bytes

    @property
    def inner(self) -> Executable:
        """The executable, open."""
        if self._inner is None:
            self._inner = self._make()
        return self._inner

    def predict(self, batch: Batch) -> Sequence[NDArray[Any]]:
        """See `Executable.predict`."""
        return self.inner.predict(batch)

    def executed(self) -> ExecutedOps:
        """See `Executable.executed`."""
        return self.inner.executed()

    def profile(self, batch: Batch, runs: int) -> Profile | None:
        """See `Executable.profile`."""
        return self.inner.profile(batch, runs)

    def close(self) -> None:
        """Close it until it is used again."""
        if self._inner is not None:
            self._inner.close()
            self._inner = None
