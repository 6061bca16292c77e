"""The basic strategy: fixed stages, each of which starts from the best configuration so far."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator

from nc_strategies.errors import EngineError
from nc_strategies.problem import Evaluation, Trial
from nc_strategies.space import FLOAT, Config, OpCapability
from nc_strategies.space.scheme import way
from nc_strategies.strategies.base import Several, Steps
from nc_strategies.strategies.choices import kinds
from nc_strategies.strategies.settings import BasicSettings
from nc_strategies.strategies.staged import Proposals, StagedStrategy

log = logging.getLogger(__name__)
MATMULS = ("Conv", "DepthwiseConv", "MatMul", "Gemm", "Dense")
MANY_ALIKE = 2
"""Operators of one kind from which a choice for all of them is worth a trial."""
Group = tuple[str, ...]


class BasicStrategy(StagedStrategy):
    """Tries int8 everywhere, then returns operators to fp32 where accuracy or speed needs it.

    1. The default int8 scheme everywhere.
    2. Other values of graph options; dynamic and weight-only quantization of all operators that offer it; other
       activation schemes, algorithms and granularities for all operators together.
       Where layers repeat, also each mode for the operators of one role or place in all layers.
    3. Where stage 2 misses the goal and the loss is estimated per operator: operators in fp32 by loss per saved time.
       Their number starts where the estimated losses leave a tolerable one, is doubled until the goal is met, then
       found by bisection; then stage 7. If there is no time to fit
       the latency model, the saved time is guessed from the operators' sizes. If there is no time to estimate the
       loss either, the smallest operators come first.
    4. The choices of stage 2 for one operator type at a time.
    5. Recipes, unless stage 3 has met the goal: the first and the last convolution or matmul in fp32; pre- and
       post-processing in fp32.
    6. One operator at a time in fp32 (those of one kind in repeated layers together, where trials do not suffice for
       each alone), to measure its effect on accuracy and time; then several together, in the order
       of their effects, until the goal is met. Once it is met, only operators that a latency model expects to be faster
       in fp32.
    7. Operators back to int8 where this keeps the accuracy and is not slower.

    Source: the stages are those of Intel Neural Compressor's documentation, "Tuning Strategies", Basic; stages 3 and 7
    are new.
    """

    settings: BasicSettings

    def steps(self) -> Steps:
        """See `StepwiseStrategy.steps`."""
        self._saved: dict[Group, float] = {}
        self._loss: dict[Group, float] = {}
        yield from self._whole_model(self._modes_by_kind)
        ops = list(self.problem.space.quantizable)
        ranked = self.settings.fallback and not self._met() and (yield from self._ranked_fallback())
        yield from self._try_several(self._choices_by_type(ops))
        if self.settings.recipes and not ranked:
            yield from self._try_several(self._recipes())
        if self.settings.fallback:
            yield from self._fallback()
            if ranked:
                yield from self._requantize()

    def _choices_by_type(self, ops: list[OpCapability]) -> Proposals:
        """The choices of stage 2 for one operator type at a time, where there are several types."""
        types = sorted({op.type for op in ops})
        for name in types if len(types) > 1 else []:
            yield from self._combinations(name, [op for op in ops if op.type == name])

    def _modes_by_kind(self) -> Proposals:
        """Each mode for the operators of one kind in all repeated layers, where operators have several modes."""
        space = self.problem.space
        for kind, groups in kinds(space).items():
            ways = list(dict.fromkeys(way(s) for group in groups for s in space.schemes(group)))
            if len(groups) < MANY_ALIKE or all(s.is_static or s.is_float for g in groups for s in space.schemes(g)):
                continue
            for wanted in ways:
                chosen = {g: next((s for s in space.schemes(g) if way(s) == wanted), None) for g in groups}
                schemes = {name: s for g, s in chosen.items() if s is not None for name in g}
                if any(way(self._base.schemes[name]) != wanted for name in schemes):
                    yield from self._new(self._base.with_ops(schemes), "blocks", f"{wanted} for {kind}")

    def _recipes(self) -> Proposals:
        space = self.problem.space
        heavy = [op.name for op in space.quantizable if op.parameters > 0 or op.type in MATMULS]
        if not heavy:
            return
        names = list(space.ops)
        first, last = heavy[0], heavy[-1]
        recipes: list[tuple[str, list[str]]] = [
            ("first weighted operator in fp32", [first]),
            ("last weighted operator in fp32", [last]),
            ("first and last weighted operator in fp32", [first, last]),
            ("pre- and post-processing in fp32", names[: names.index(first)] + names[names.index(last) + 1 :]),
        ]
        for note, ops in recipes:
            wanted = [name for name in ops if not self._base.schemes[name].is_float]
            config = space.fall_back(self._base, *wanted)
            if wanted and config.int8_ops:
                yield from self._new(config, "recipes", note)

    def _quantized(self, base: Config) -> list[Group]:
        """Groups of operators that are in int8 and could be in fp32."""
        space = self.problem.space
        return [g for g in space.groups if not base.schemes[g[0]].is_float and FLOAT in space.schemes(g)]

    def _ranked_fallback(self) -> Generator[Config | Several, Trial, bool]:
        """Try operators in fp32, ordered by estimated loss per saved time; return whether this met the goal."""
        base = self._base
        groups = self._quantized(base)
        if not self._estimated(base, groups):
            return False
        groups.sort(key=lambda g: -self._loss[g] / self._saved[g])
        yield from self._double(base, groups)
        if self._met():
            yield from self._requantize()
        return self._met()

    def _fallback(self) -> Steps:
        goal, base = self.problem.goal, self._base
        start = self._tried.get(base.fingerprint)
        if start is None or start.evaluation is None:
            return
        met, before = self._met(), start.evaluation
        groups = self._quantized(base)
        groups = self._faster_in_fp32(base, groups) if met else self._order(self._together(groups))
        yield from self._try_several(self._one_by_one(base, groups))
        effects = self._effects(base, groups)
        self._saved.update({g: goal.cost(e) - goal.cost(before) for g, e in effects})
        if not met and not self._met():
            effects.sort(key=lambda e: (goal.loss(e[1]), goal.cost(e[1])))
            yield from self._try_several(self._accumulate(base, [group for group, _ in effects], self._met))
            if self._met():
                yield from self._requantize()
        else:
            faster = [(g, e) for g, e in effects if goal.cost(e) < goal.cost(before)]
            faster.sort(key=lambda e: goal.cost(e[1]))
            yield from self._try_several(self._accumulate(base, [group for group, _ in faster], lambda: False))

    def _effects(self, base: Config, groups: list[Group]) -> list[tuple[Group, Evaluation]]:
        """What was measured of each group alone in fp32."""
        trials = {g: self._tried.get(self.problem.space.fall_back(base, *g).fingerprint) for g in groups}
        return [
            (g, t.evaluation)
            for g, t in trials.items()
            if t is not None and t.evaluation is not None and t.config.int8_ops
        ]

    def _one_by_one(self, base: Config, groups: list[Group]) -> Proposals:
        """Each group alone in fp32; not fp32 everywhere, which is the baseline."""
        for group in groups:
            config = self.problem.space.fall_back(base, *group)
            if config.int8_ops:
                yield from self._new(config, "fallback", f"{group[0]} in fp32")

    def _estimated(self, base: Config, groups: list[Group]) -> bool:
        """Estimate the loss and the saved time of int8 per operator; False where the loss cannot be estimated."""
        sensitivity = self.problem.sensitivity
        if self.problem.latency_model is None or sensitivity is None or not groups:
            return False
        try:
            loss = sensitivity()
        except EngineError as error:
            log.warning("operators are not ranked by estimates: %s", error)
            return False
        if loss and not any(math.isfinite(value) for value in loss.values()):
            return False  # the engine has failed at every operator
        # There was no time to estimate losses: equal ones order the operators by saved time.
        missing = 0.0 if loss else 1.0
        self._loss = {g: max(0.0, *(loss.get(name, missing) for name in g)) for g in groups}
        saved = self._modelled_savings(base, groups) or self._guessed_savings(groups)
        least = 0.01 * max(*saved.values(), 1e-9)
        self._saved = {g: max(s, least) for g, s in saved.items()}
        return True

    def _modelled_savings(self, base: Config, groups: list[Group]) -> dict[Group, float]:
        """Cost that each operator saves in int8 by the latency model; empty without one."""
        model, space = self.problem.latency_model, self.problem.space
        if model is None:
            return {}
        try:
            cost = model(base)
            return {g: model(space.fall_back(base, *g)) - cost for g in groups}
        except EngineError as error:
            log.warning("the time that int8 saves is guessed from the operators' sizes: %s", error)
            return {}

    def _guessed_savings(self, groups: list[Group]) -> dict[Group, float]:
        """Time that each operator is guessed to save in int8, in an arbitrary unit.

        The time of a matrix product grows about as the geometric mean of the numbers of weights and outputs.
        """
        ops = self.problem.space.ops
        return {
            g: sum(math.sqrt(max(ops[name].parameters, 1) * max(ops[name].elements, 1)) for name in g) for g in groups
        }

    def _double(self, base: Config, groups: list[Group]) -> Steps:
        """Find the fewest leading operators whose fp32 meets the goal: a first guess, doubled, then bisection."""

        def feasible(count: int) -> Generator[Config, Trial, bool]:
            config = self.problem.space.fall_back(base, *(name for g in groups[:count] for name in g))
            if not config.int8_ops:
                return True  # All operators are in fp32, which needs no trial.
            trial = yield from self._try(config, "accumulate", f"{count} operators in fp32, by estimated effect")
            return self._feasible(trial)

        low, high = 0, self._first_count(base, groups)
        while high < len(groups) and not (yield from feasible(high)):
            low, high = high, 2 * high
        if high >= len(groups):
            high = len(groups)
            yield from feasible(high)
        while high - low > 1:
            middle = (low + high) // 2
            if (yield from feasible(middle)):
                high = middle
            else:
                low = middle

    def _first_count(self, base: Config, groups: list[Group]) -> int:
        """Fewest leading operators without which the noise of the others leaves a tolerable loss.

        Estimates are powers of independent noise, which add up, and a metric's loss grows with the noise's amplitude:
        by the square root of the sum. Half of the operators at most: the estimates rank operators better than they add
        up. Operators that fail or give no finite output in int8 come first.
        """
        trial = self._tried.get(base.fingerprint)
        total = sum(value for value in self._loss.values() if math.isfinite(value))
        if trial is None or trial.evaluation is None or not total:
            return 1
        first = self.problem.goal.constraints[0]
        share = first.loss(first.threshold) / max(self.problem.goal.loss(trial.evaluation), 1e-12)
        rest, count, most = total, 0, max(1, len(groups) // 2)
        while count < most and rest > share * share * total:
            rest -= self._loss[groups[count]] if math.isfinite(self._loss[groups[count]]) else 0.0
            count += 1
        return max(1, count)

    def _faster_in_fp32(self, base: Config, groups: list[Group]) -> list[Group]:
        """Operators to try once the goal is met: those that a latency model expects to gain, or all without a model."""
        model = self.problem.latency_model
        if model is None:
            return groups
        try:
            limit = model(base)
            cost = {g: model(self.problem.space.fall_back(base, *g)) for g in groups}
        except EngineError as error:
            log.warning("latency is not modelled: %s", error)
            return groups
        return sorted((g for g in groups if cost[g] < limit), key=lambda g: cost[g])

    def _together(self, groups: list[Group]) -> list[Group]:
        """Groups of the same kind in repeated layers as one, if trials do not suffice and no estimate orders them."""
        if self.problem.sensitivity is not None or self.problem.budget == 0 or len(groups) < self._left():
            return groups
        merged = kinds(self.problem.space)
        joined = [tuple(n for g in alike if g in groups for n in g) for alike in merged.values()]
        inside = {g for alike in merged.values() for g in alike}
        return [*(g for g in joined if g), *(g for g in groups if g not in inside)]

    def _order(self, groups: list[Group]) -> list[Group]:
        # An order of the operators is worth its estimates only when there are too few trials for all.
        if self.problem.sensitivity is None or self.problem.budget == 0 or len(groups) < self._left():
            return groups
        loss = self.problem.sensitivity()
        return sorted(groups, key=lambda group: -sum(loss.get(name, 0.0) for name in group))

    def _accumulate(self, base: Config, groups: list[Group], enough: Callable[[], bool]) -> Proposals:
        config = base
        for count, group in enumerate(groups, 1):
            if enough():
                return
            config = self.problem.space.fall_back(config, *group)
            if not config.int8_ops:
                return
            yield from self._new(config, "accumulate", f"{count} operators in fp32, by effect")

    def _requantize(self) -> Steps:
        """Try operators back in int8, those that save most time first, and keep each that keeps the goal.

        Where losses are estimated, operators with the most saved time per loss come first, and operators whose loss is
        expected to exceed the rest of the tolerated loss come last.
        """
        space, goal, int8 = self.problem.space, self.problem.goal, self.problem.space.default()
        changed = {name for name, scheme in self._base.ops if scheme.is_float and not int8.schemes[name].is_float}
        left = [g for g in space.groups if changed & set(g)]
        while left:
            group = min(left, key=self._reluctance)
            left.remove(group)
            config = self._base.with_ops({name: int8.schemes[name] for name in group})
            trial = yield from self._try(config, "give back", f"{group[0]} back to int8")
            best = self._best.evaluation if self._best is not None else None
            done = trial.evaluation
            # Each gain alone may be a tie: an operator stays in int8 if the goal is kept and the cost is not higher.
            if done is not None and best is not None and self._feasible(trial) and goal.cost(done) <= goal.cost(best):
                self._best = trial

    def _reluctance(self, group: Group) -> tuple[bool, float]:
        """Sort key of operators to requantize: the lowest is tried first."""
        saved, lost = self._saved.get(group, 0.0), self._loss.get(group, 0.0)
        if not lost or self._best is None or self._best.evaluation is None:
            return False, -saved
        first = self.problem.goal.constraints[0]
        slack = first.loss(first.threshold) - self.problem.goal.loss(self._best.evaluation)
        return lost * self._scale() > slack, -saved / lost

    def _scale(self) -> float:
        """Factor by which the estimated losses sum to the measured loss of the default."""
        default = self._tried.get(self.problem.space.default().fingerprint)
        total = sum(self._loss.values())
        if default is None or default.evaluation is None or total <= 0:
            return 1.0
        return max(self.problem.goal.loss(default.evaluation), 0.0) / total
