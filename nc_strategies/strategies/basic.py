"""The basic strategy: stage by stage, each from the best so far."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace

from nc_strategies.problem import Evaluation, Trial
from nc_strategies.space import FLOAT, Config, OpCapability, OpScheme, Space
from nc_strategies.strategies.base import Steps, StepwiseStrategy

MATMULS = ("Conv", "DepthwiseConv", "MatMul", "Gemm", "Dense")
Choice = tuple[str, str]


@dataclass
class BasicSettings:
    """Settings of `BasicStrategy`.

    Args:
        recipes: Try the first and last convolution or matmul, and pre- and post-processing, in fp32.
        fallback: Try operators in fp32 one by one, and accumulate them.
    """

    name: str = "basic"
    recipes: bool = True
    fallback: bool = True


class BasicStrategy(StepwiseStrategy):
    """Int8 everywhere, then less of it where accuracy or speed asks for it.

    1. The default int8 everywhere.
    2. Other schemes, algorithms, granularities and options, for all operators together and then type by type.
    3. Recipes: the first and the last convolution or matmul in fp32; pre- and post-processing in fp32.
    4. One operator at a time in fp32: its price in accuracy and in time.
    5. Those operators together, in the order of their effect, until the goal is met.
    6. Once it is met, operators go back to int8 where accuracy allows and time gains.

    Source: the stages are those of Intel Neural Compressor's documentation, "Tuning Strategies", Basic; the last
    is new.
    """

    settings: BasicSettings

    def steps(self) -> Steps:
        """See `StepwiseStrategy.steps`."""
        self._best: Trial | None = None
        self._tried: dict[str, Trial] = {}
        self._saved: dict[tuple[str, ...], float] = {}
        yield from self._try(self.problem.space.default(), "default int8", "default int8 everywhere")
        yield from self._combinations()
        if self.settings.recipes:
            yield from self._recipes()
        if self.settings.fallback:
            yield from self._fallback()

    def _try(self, config: Config, stage: str, note: str) -> Generator[Config, Trial, Trial]:
        if config.fingerprint not in self._tried:
            self.stage, self.note = stage, note
            trial = yield config
            self._tried[config.fingerprint] = trial
            best = self._best.evaluation if self._best is not None else None
            if trial.evaluation is not None and (best is None or self.problem.goal.better(trial.evaluation, best)):
                self._best = trial
        return self._tried[config.fingerprint]

    @property
    def _base(self) -> Config:
        return self._best.config if self._best is not None else self.problem.space.default()

    def _met(self) -> bool:
        best = self._best
        return best is not None and best.evaluation is not None and self.problem.goal.feasible(best.evaluation)

    def _combinations(self) -> Steps:
        """One choice at a time: graph options, then each scheme field for all operators, then type by type."""
        space = self.problem.space
        for name, values in space.options.items():
            for value in values:
                yield from self._try(self._base.with_option(name, value), "options", f"{name}={value}")
        types = sorted({op.type for op in space.quantizable})
        ops = list(space.quantizable)
        for label, part in [("all operators", ops), *(
            [(t, [op for op in ops if op.type == t]) for t in types] if len(types) > 1 else []
        )]:
            for field, change in _changes(part):
                config = _changed(space, self._base, part, change)
                yield from self._try(config, "combinations", f"{field} for {label}")

    def _recipes(self) -> Steps:
        space = self.problem.space
        heavy = [op.name for op in space.quantizable if op.parameters > 0 or op.type in MATMULS]
        if not heavy:
            return
        names = list(space.ops)
        first, last = heavy[0], heavy[-1]
        recipes: list[tuple[str, list[str]]] = [
            ("first weighted operator in fp32", [first]), ("last weighted operator in fp32", [last]),
            ("first and last weighted operator in fp32", [first, last]),
            ("pre- and post-processing in fp32",
             names[: names.index(first)] + names[names.index(last) + 1 :]),
        ]
        for note, ops in recipes:
            wanted = [name for name in ops if not self._base.schemes[name].is_float]
            if wanted:
                yield from self._try(space.fall_back(self._base, *wanted), "recipes", note)

    def _fallback(self) -> Steps:
        space, goal, base = self.problem.space, self.problem.goal, self._base
        start = self._tried.get(base.fingerprint)
        if start is None or start.evaluation is None:
            return
        effects: list[tuple[tuple[str, ...], Evaluation]] = []
        for group in self._order(base):
            trial = yield from self._try(space.fall_back(base, *group), "fallback", f"{group[0]} in fp32")
            if trial.evaluation is not None:
                effects.append((group, trial.evaluation))
                self._saved[group] = goal.cost(trial.evaluation) - goal.cost(start.evaluation)
        before = start.evaluation
        if not self._met():
            effects.sort(key=lambda e: (goal.loss(e[1]), goal.cost(e[1])))
            yield from self._accumulate(base, [group for group, _ in effects], self._met)
            if self._met():
                yield from self._give_back()
        else:
            faster = [(g, e) for g, e in effects if goal.cost(e) < goal.cost(before)]
            faster.sort(key=lambda e: goal.cost(e[1]))
            yield from self._accumulate(base, [group for group, _ in faster], lambda: False)

    def _order(self, base: Config) -> list[tuple[str, ...]]:
        groups = [g for g in self.problem.space.groups
                  if not base.schemes[g[0]].is_float and FLOAT in self.problem.space.schemes(g)]
        if self.problem.sensitivity is None or self.problem.budget == 0 or len(groups) < self._left():
            return groups
        loss = self.problem.sensitivity()
        return sorted(groups, key=lambda group: -sum(loss.get(name, 0.0) for name in group))

    def _left(self) -> int:
        """Trials left; the order only matters, and is only worth its price, when there are too few for all."""
        return self.problem.budget - len(self._tried)

    def _accumulate(self, base: Config, groups: list[tuple[str, ...]], enough: Callable[[], bool]) -> Steps:
        config = base
        for count, group in enumerate(groups, 1):
            if enough():
                return
            config = self.problem.space.fall_back(config, *group)
            yield from self._try(config, "accumulate", f"{count} operators in fp32, by effect")

    def _give_back(self) -> Steps:
        """Operators back to int8, those that save most time first, for as long as the goal holds."""
        space, goal, int8 = self.problem.space, self.problem.goal, self.problem.space.default()
        changed = {name for name, scheme in self._base.ops if scheme.is_float and not int8.schemes[name].is_float}
        for group in sorted((g for g in space.groups if changed & set(g)), key=lambda g: -self._saved.get(g, 0.0)):
            config = self._base.with_ops({name: int8.schemes[name] for name in group})
            trial = yield from self._try(config, "give back", f"{group[0]} back to int8")
            best = self._best.evaluation if self._best is not None else None
            done = trial.evaluation
            # Each gain alone may be a tie: what keeps the goal and is not slower is kept.
            if done is not None and best is not None and goal.feasible(done) and goal.cost(done) <= goal.cost(best):
                self._best = trial


def _changes(ops: Iterable[OpCapability]) -> list[tuple[str, tuple[Choice, ...]]]:
    """Choices that some operator of a set has: (text, what to change), in a fixed order."""
    found: dict[str, tuple[Choice, ...]] = {}
    for op in ops:
        for scheme in op.schemes:
            if scheme.is_float:
                continue
            act = scheme.activation
            found.setdefault(f"{act.algorithm} calibration", (("algorithm", act.algorithm),))
            found.setdefault(f"{act.dtype} {act.scheme} activations", (("dtype", act.dtype), ("scheme", act.scheme)))
            if scheme.weight is not None:
                found.setdefault(f"{scheme.weight.granularity} weights", (("granularity", scheme.weight.granularity),))
    return list(found.items())


def _changed(space: Space, base: Config, ops: Iterable[OpCapability], change: tuple[Choice, ...]) -> Config:
    """The configuration with the change made for each operator, and those tied to it, where their schemes allow it."""
    schemes: dict[str, OpScheme] = {}
    for op in ops:
        old = base.schemes[op.name]
        if old.is_float:
            continue
        act, weight = old.activation, old.weight
        for field, value in change:
            if field == "granularity":
                weight = replace(weight, granularity=value) if weight else None
            else:
                act = replace(act, **{field: value})
        wanted, group = OpScheme(act, weight), space.group_of[op.name]
        if wanted in space.schemes(group):
            schemes.update(dict.fromkeys(group, wanted))
    return base.with_ops(schemes)
