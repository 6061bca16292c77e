"""The conservative strategy: from fp32, operator type by operator type."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from nc_strategies.space import Config, OpScheme
from nc_strategies.space.scheme import way
from nc_strategies.strategies.base import Steps
from nc_strategies.strategies.choices import Group, guessed_work
from nc_strategies.strategies.settings import ConservativeSettings
from nc_strategies.strategies.staged import Proposals, StagedStrategy


class ConservativeStrategy(StagedStrategy):
    """Quantizes operators step by step, from fp32, and keeps each step that keeps the accuracy.

    1. One operator type after the other, those that take the most time first: all operators of the type in their
       default scheme; if that loses too much, in each other quantization mode that they offer.
    2. The halves of each type that lost too much, then the halves of these, down to single operators.

    Every trial adds to a configuration that keeps the accuracy, so that a run which ends early has a model, unless no
    step has kept it so far. Only the accuracy decides; the run chooses the best of all trials. Operators that the
    user's overrides keep out of fp32 are quantized from the start. Operators that must share a scheme count as of the
    type of the largest of them.

    Source: Intel Neural Compressor's documentation, "Tuning Strategies", Conservative Tuning (``quant_level=0``,
    https://intel.github.io/neural-compressor/latest/docs/source/tuning_strategies.html), which has whole types only.
    """

    settings: ConservativeSettings

    def steps(self) -> Steps:
        """See `StepwiseStrategy.steps`."""
        space = self.problem.space
        kept = space.fall_back(space.default(), *space.ops)
        if kept.int8_ops:
            yield from self._try(kept, "from fp32", "only what may not run in fp32 is quantized")
        parts = deque(self._types(kept))
        while parts:
            label, part = parts.popleft()
            configs = {mode: self._quantized(kept, part, mode) for mode in self._modes(part)}
            configs = {mode: c for mode, c in configs.items() if c.fingerprint not in self._tried}
            yield from self._try_several(self._one_step(label, configs))
            found = next((c for c in configs.values() if self._keeps(c)), None)
            if found is not None:
                kept = found
            elif self.settings.split and len(part) > 1:
                middle = len(part) // 2
                parts.extend((_label(half), half) for half in (part[:middle], part[middle:]))

    def _one_step(self, label: str, configs: Mapping[str, Config]) -> Proposals:
        """A step in each quantization mode, until one keeps the accuracy."""
        for mode, config in configs.items():
            if not any(self._keeps(other) for other in configs.values()):
                yield from self._new(config, "types", f"{label} in {mode or 'the default scheme'}")

    def _keeps(self, config: Config) -> bool:
        """Whether a configuration was tried and keeps the accuracy."""
        trial = self._tried.get(config.fingerprint)
        return trial is not None and self._feasible(trial)

    def _types(self, base: Config) -> list[tuple[str, list[Group]]]:
        """Labels and groups of the operator types that are in fp32 and can be quantized, the most work first."""
        space, types = self.problem.space, dict[str, list[Group]]()
        for group in space.groups:
            if base.schemes[group[0]].is_float and self._modes([group]):
                largest = max(group, key=lambda name: guessed_work(space, (name,)))
                types.setdefault(space.ops[largest].type, []).append(group)
        order = sorted(types, key=lambda name: -sum(guessed_work(space, g) for g in types[name]))
        return [(f"all {name}", types[name]) for name in order]

    def _modes(self, part: list[Group]) -> list[str]:
        """Modes to try: the default, empty, then those that are the default of no group of the part."""
        first = {way(scheme) for group in part if (scheme := self._scheme(group, "")) is not None}
        modes = dict.fromkeys(way(s) for g in part for s in self.problem.space.schemes(g) if not s.is_float)
        return ["", *(mode for mode in modes if mode not in first)] if first else []

    def _scheme(self, group: Group, mode: str) -> OpScheme | None:
        """The first quantized scheme of a group in a mode; None without one."""
        schemes = self.problem.space.schemes(group)
        return next((s for s in schemes if not s.is_float and mode in ("", way(s))), None)

    def _quantized(self, base: Config, part: list[Group], mode: str) -> Config:
        chosen = {g: scheme for g in part if (scheme := self._scheme(g, mode)) is not None}
        return base.with_ops({name: scheme for group, scheme in chosen.items() for name in group})


def _label(part: list[Group]) -> str:
    return part[0][0] if len(part) == 1 else f"{part[0][0]} and {len(part) - 1} more"
