"""The machine that a run measures on, and the maximum speed-up of int8 on it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nc_strategies.backends.ceiling import Ceiling
from nc_strategies.errors import NcsError, TargetError, first_line
from nc_strategies.runtime import machine

if TYPE_CHECKING:
    from nc_strategies.measuring.target import MeasurementTarget

log = logging.getLogger(__name__)
LOW_CEILING = 1.1
"""Int8 ceiling below which a run warns: in most models, conversions between int8 and float outweigh such a gain."""
TIMED = ("latency", "throughput")
"""Objectives that a low ceiling limits."""
BESIDE_ENGINE = ("python", "numpy", "nc-strategies")
"""Versions that are recorded beside those of an engine, and that change no kernel."""
HELPS = (
    "What helps: size or memory as the objective (metrics=accuracy_size, metrics=accuracy_memory), another "
    "backend, or tuning on the processor that will run the model."
)


@dataclass(frozen=True)
class Machine:
    """Processor, cores, and the int8 ceiling of a backend on them.

    Args:
        processor: Name of the processor.
        instruction_sets: Instruction sets that kernels use, by their names in Linux; empty if unknown.
        cores: Logical cores that the run may use.
        threads: Threads that a model runs with.
        ceiling: Speed-ups of int8 operators over fp32; None if unknown.
        target: Address of the machine that timed; empty for the one that tuned.
        engine: Versions of the engine's packages on the machine that timed.
        agreement: Whether that machine's outputs are those of the one that tuned, see
            `nc_strategies.measuring.remote.agreement`; None if unknown.
    """

    processor: str
    instruction_sets: tuple[str, ...]
    cores: int
    threads: int
    ceiling: Ceiling | None = None
    target: str = ""
    engine: Mapping[str, str] = field(default_factory=dict)
    agreement: Mapping[str, Any] | None = None

    @staticmethod
    def here(threads: int, ceiling: Ceiling | None = None, engine: Mapping[str, str] | None = None) -> Machine:
        """Describe this machine."""
        return Machine(
            machine.processor_name(),
            machine.instruction_sets(),
            machine.cores(),
            threads,
            ceiling,
            engine=engine or {},
        )

    @staticmethod
    def there(found: Mapping[str, Any], threads: int, ceiling: Ceiling | None = None) -> Machine:
        """Describe another machine.

        Args:
            found: What `MeasurementTarget.timed_on` returned.
            threads: Threads that a model runs with.
            ceiling: Its ceiling.
        """
        return Machine(
            str(found["processor"]),
            tuple(found["instruction_sets"]),
            int(found["cores"]),
            threads,
            ceiling,
            str(found["target"]),
            dict(found["engine"]),
            found.get("agreement"),
        )

    @property
    def best(self) -> float | None:
        """The ceiling: the highest ratio of fp32's latency over int8's; None if unknown."""
        return self.ceiling.best if self.ceiling is not None else None

    @property
    def low(self) -> bool:
        """Whether the ceiling is known and below `LOW_CEILING`."""
        return self.best is not None and self.best < LOW_CEILING

    def other_versions(self, here: Mapping[str, str]) -> str:
        """A sentence on packages of the engine that differ on the machine that timed; empty if none does.

        Args:
            here: Versions of the software on the machine that tunes.
        """
        apart = [
            f"{name} {there} there, {here[name]} here"
            for name, there in self.engine.items()
            if name not in BESIDE_ENGINE and name in here and here[name] != there
        ]
        if not self.target or not apart:
            return ""
        return (
            f"the target has other versions: {', '.join(apart)}; operators and schemes are chosen by what the engine "
            "can do here"
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to the data in ``result.json``; the inverse of `from_dict`."""
        known = self.ceiling if self.best is not None else None
        return {
            "processor": self.processor,
            "instruction_sets": list(self.instruction_sets),
            "cores": self.cores,
            "threads": self.threads,
            "saturates": self.ceiling.saturates if self.ceiling is not None else None,
            "ceiling": {
                kind: {name: round(ratio, 3) for name, ratio in ratios.items()} for kind, ratios in known.ratios.items()
            }
            if known is not None
            else None,
            "best_ceiling": round(self.best, 3) if self.best is not None else None,
            "target": self.target or None,
            "engine": dict(self.engine),
            "agreement": dict(self.agreement) if self.agreement is not None else None,
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Machine:
        """Read what `to_dict` wrote.

        Raises:
            ValueError, KeyError: the data has another structure.
        """
        threads = int(data["threads"])
        ceiling = Ceiling.from_dict(
            {"ratios": data["ceiling"] or {}, "saturates": data["saturates"], "threads": threads}
        )
        known = ceiling.best is not None or ceiling.saturates is not None
        return Machine(
            str(data["processor"]),
            tuple(data["instruction_sets"]),
            int(data["cores"]),
            threads,
            ceiling if known else None,
            str(data.get("target") or ""),
            dict(data.get("engine") or {}),
            data.get("agreement"),
        )

    def sentences(self, backend: str) -> list[str]:
        """Sentences that explain the ceiling to the user of a run.

        Args:
            backend: The backend's name.
        """
        fastest = self.ceiling.fastest if self.ceiling is not None else None
        place = "the target" if self.target else "this machine"
        if fastest is None:
            words = [f"How fast int8 operators of {backend} can be on {place} is unknown."]
        else:
            kind, name, ratio = fastest
            follows = (
                "no int8 model can be much faster than fp32 here" if self.low else "a whole model usually gains less"
            )
            words = [
                f"The fastest int8 operator of {backend} on {place}, {kind} ({name}), runs {ratio:.2f} times "
                f"as fast as in fp32: {follows}.",
                *([HELPS] if self.low else []),
            ]
        if self.ceiling is not None and self.ceiling.saturates:
            words.append("Sums of 8-bit products saturate on this processor, so that weights get 7 bits.")
        return words


def find_machine(target: MeasurementTarget, threads: int) -> Machine:
    """The machine that times, with the ceiling of its engine; a failure to measure it is logged, and it is unknown.

    Raises:
        TargetError: the machine is another one, and is no longer reached.
    """
    try:
        ceiling = target.ceiling()
    except TargetError:
        raise
    except NcsError as error:
        log.warning("the int8 ceiling could not be measured: %s", first_line(error))
        ceiling = None
    other = target.timed_on()
    if other is not None:
        return Machine.there(other, threads, ceiling)
    return Machine.here(threads, ceiling, dict(target.versions()))
