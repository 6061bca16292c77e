"""The strategy `auto`: int8 everywhere, then whichever strategy is quickest to a fast model that keeps the goal."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nc_strategies.problem import Problem, Trial
from nc_strategies.space import Config
from nc_strategies.strategies.base import Several, Steps, Strategy
from nc_strategies.strategies.basic import BasicStrategy
from nc_strategies.strategies.choices import guessed_work, whole_modes
from nc_strategies.strategies.exhaustive import ExhaustiveStrategy
from nc_strategies.strategies.settings import AutoSettings, BasicSettings, ExhaustiveSettings
from nc_strategies.strategies.staged import Proposals, StagedStrategy

log = logging.getLogger(__name__)
DECISION_FILE = "auto.json"
"""Name of the file in the run's folder with decisions on steps 4 and 5: a resumed run may have more time and trials."""

TRIALS_OF_BASIC = "trials_of_basic"
"""Key in that file of the decision of step 4; those of step 5 are under the budgets that they were made with."""


@dataclass(frozen=True)
class AutoRules:
    """When which strategy goes on. The reasons are figures of docs/benchmarks.md and docs/strategies.md."""

    product_share: float = 0.5
    """Share of the work in operators that offer other modes than static int8, from which these modes are tried for the
    whole model. Below it, they change too little to be worth a trial each."""
    max_exhaustive: int = 64
    """Largest space that is enumerated, if the budget has a trial for each of its configurations."""
    min_trials_to_estimate: int = 5
    """Trials left, by the budget or by the time at the pace so far, below which `basic` goes on. `ilp` meets a missed
    goal in 2 trials where `basic` needs 9 or 10, but its estimates take the time of several trials."""

    share_of_ilp: float = 0.5
    """Most of the trials left that `ilp` gets. Where a goal depends on few samples, no estimate predicts it, and `ilp`
    stops far from the fastest model that keeps it."""


AUTO_RULES = AutoRules()


class AutoStrategy(StagedStrategy):
    """Climbs a ladder, and says in each trial's note which step it is on and why.

    1. int8 everywhere.
    2. Each other quantization mode for the whole model, if operators that offer one do most of the work.
    3. A space with fewer configurations than trials left is enumerated (`exhaustive`), and that is all.
    4. If few trials are left, `basic` for these: the estimates of `ilp` would take longer than they. Not where int8
       everywhere is slower than fp32: what `basic` tries first changes the accuracy, and hardly the latency.
    5. `ilp`: it recovers a missed goal in the fewest trials, and finds the fastest models once the goal is kept.
       It gets half of the trials that are left, if their number is limited.
    6. `basic` with the trials that `ilp` leaves: `ilp` keeps to its predictions, and these may be wrong.
    7. `ilp` again, if step 5 was cut and `basic` has ended.

    A strategy that goes on asks for its own first trials, which are answered from those already measured. As many
    trials may be open as that strategy opens.

    Source: the ladder is that of Intel Neural Compressor's ``quant_level="auto"`` ("Tuning Strategies", Auto,
    https://intel.github.io/neural-compressor/latest/docs/source/tuning_strategies.html): the default, then strategies
    one after the other. There they are `conservative` and `basic`.
    """

    settings: AutoSettings

    def __init__(self, settings: AutoSettings, problem: Problem) -> None:
        super().__init__(settings, problem)
        self._inner: Strategy | None = None
        self._last: Strategy | None = None

    def steps(self) -> Steps:
        """See `StepwiseStrategy.steps`."""
        space = self.problem.space
        yield from self._try(space.default(), "default int8", "step 1: default int8 everywhere")
        share = self._product_share()
        if share >= AUTO_RULES.product_share:
            yield from self._try_several(self._step_2(share))
        left = space.size() - len(self._tried)
        if space.size() <= AUTO_RULES.max_exhaustive and (left <= self._left() or self.problem.budget == 0):
            every = ExhaustiveStrategy(ExhaustiveSettings(), self.problem)
            yield from self._follow(every, "exhaustive", f"step 3: all of {space.size()} configurations")
            return
        last = self._trials_of_basic()
        if len(self._tried) < last and not self._slower():
            few = "step 4: few trials are left"
            yield from self._follow(self._basic(), "basic", few, until=lambda: self._proposed >= last)
        for most, last in self._shares():
            why = "the goal is kept, a faster model is sought" if self._met() else "the goal is missed"
            yield from self._follow(self._ilp(), "ilp", f"step 5: {why}", until=self._reaches(most))
            cut = self._proposed >= most
            if cut:
                why = "ilp has had half of the trials"
            else:
                found = self._met()
                why = "ilp expects nothing faster" if found else "ilp has ended without a model that keeps the goal"
            self.ended = yield from self._follow(self._basic(), "basic", f"step 6: {why}", until=self._reaches(last))
            if self._proposed < last:
                if cut:
                    yield from self._follow(self._ilp(), "ilp", "step 7: basic has ended")
                return

    def _step_2(self, share: float) -> Proposals:
        """Each other quantization mode for the whole model, which operators with a share of the work offer."""
        for mode, config in whole_modes(self.problem.space).items():
            note = f"step 2: {mode} quantization, which operators with {share:.0%} of the work offer"
            yield from self._new(config, "modes", note)

    def _product_share(self) -> float:
        """Share of the guessed work in operators that offer a quantization mode other than static int8."""
        space = self.problem.space
        work = {g: guessed_work(space, g) for g in space.groups}
        able = sum(w for g, w in work.items() if any(not s.is_static and not s.is_float for s in space.schemes(g)))
        return able / max(sum(work.values()), 1e-9)

    def _trials_of_basic(self) -> int:
        """Number of trials up to which `basic` goes on in step 4; 0 for none. A resumed run keeps what was decided."""
        kept = self._kept()
        if TRIALS_OF_BASIC in kept:
            return kept[TRIALS_OF_BASIC]
        used, least = self.problem.time_used(), AUTO_RULES.min_trials_to_estimate
        found = self.problem.budget if 0 < self._left() < least else 0
        if used > 0 and (1 - used) / used * len(self._tried) < least:
            found = sys.maxsize
        if found or used > 0:
            self._keep({**kept, TRIALS_OF_BASIC: found})
        return found

    def _shares(self) -> Iterator[tuple[int, int]]:
        """Numbers of trials up to which `ilp`, and then `basic` goes on.

        `ilp` gets half of the trials that are left. A resumed run repeats what the first one did, and has half of its
        own further trials for `ilp`.
        """
        budget = self.problem.budget or sys.maxsize
        kept = self._kept()
        earlier = sorted(int(name) for name in kept if name.isdecimal())
        for last in earlier:
            yield kept[str(last)], last if last < budget else sys.maxsize
        if not earlier or earlier[-1] < budget:
            most = sys.maxsize
            if self.problem.budget:
                most = self._proposed + math.ceil(AUTO_RULES.share_of_ilp * self._left())
                self._keep({**self._kept(), str(budget): most})
            yield most, sys.maxsize

    def _reaches(self, count: int) -> Callable[[], bool]:
        return lambda: self._proposed >= count

    def _kept(self) -> dict[str, int]:
        """The decisions of this run and those that it resumes: `TRIALS_OF_BASIC`; those of `_shares`, by budget."""
        path = self._decisions
        if path is not None and path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                return {str(name): int(value) for name, value in found.items()}
            except (OSError, ValueError, AttributeError, TypeError) as error:
                log.warning("%s cannot be read: %s; what it held is decided again", path, error)
        return {}

    def _keep(self, decisions: Mapping[str, int]) -> None:
        if self._decisions is not None:
            self._decisions.write_text(json.dumps(decisions) + "\n", encoding="utf-8")

    @property
    def _decisions(self) -> Path | None:
        folder = self.problem.state_dir
        return folder / DECISION_FILE if folder is not None else None

    def _slower(self) -> bool:
        """Whether int8 everywhere was measured and costs more than fp32."""
        first = self._tried.get(self.problem.space.default().fingerprint)
        return first is not None and self.problem.goal.slower(first)

    @property
    def _proposed(self) -> int:
        return len(self._tried) + len(self._trying)

    def _follow(
        self, strategy: Strategy, name: str, why: str, until: Callable[[], bool] = lambda: False
    ) -> Generator[Config | Several, Trial, str]:
        """Pass on another strategy's proposals until it has finished or a condition holds; return why it finished."""
        self.engine, self._inner, self._last = name, strategy, strategy
        yield from self._try_several(self._proposals_of(strategy, name, why, until))
        self.predicted = self._inner = None
        strategy.close()
        return strategy.ended

    def _proposals_of(self, strategy: Strategy, name: str, why: str, until: Callable[[], bool]) -> Proposals:
        while not until():
            config = strategy.propose()
            if config is None:
                if not self._trying:
                    return
                yield None
            elif (known := self._tried.get(config.fingerprint)) is not None:
                strategy.observe(known)
            else:
                self.predicted = strategy.predicted
                yield from self._new(config, strategy.stage, f"{why}, {name}: {strategy.note}")

    def _remember(self, trial: Trial) -> None:
        super()._remember(trial)
        if self._inner is not None:
            self._inner.observe(trial)

    def front(self, count: int = 20) -> Sequence[Config]:
        """See `Strategy.front`: that of the strategy that was followed last."""
        return self._last.front(count) if self._last is not None else ()

    def close(self) -> None:
        """See `Strategy.close`. The strategy that was followed learns the last trials, and leaves its files."""
        if self._inner is not None:
            for trial in self._take_unseen():
                self._inner.observe(trial)
            self._inner.close()

    def _basic(self) -> Strategy:
        return BasicStrategy(BasicSettings(), self.problem)

    def _ilp(self) -> Strategy:
        # Imported here: a run that meets the goal at once needs no solver, and importing it takes a second.
        from nc_strategies.strategies.ilp.settings import IlpSettings
        from nc_strategies.strategies.ilp.strategy import IlpStrategy

        return IlpStrategy(IlpSettings(), self.problem, closest=False)
