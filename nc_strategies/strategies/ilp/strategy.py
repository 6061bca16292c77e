"""The strategy: solve, measure, correct, solve again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from nc_strategies.problem import Problem, Trial
from nc_strategies.space import Config
from nc_strategies.strategies.base import Several, Steps, StepwiseStrategy
from nc_strategies.strategies.ilp.search import Point, Search
from nc_strategies.strategies.ilp.settings import IlpSettings

FRONT_FILE = "pareto.json"
SCHEMA_VERSION = 1
MAX_FRONT_POINTS = 20
"""Limits on the loss for which the program is solved for the predicted front."""
FRONT_SECONDS = 5.0
"""Limit of the time for ``pareto.json`` at the end of a run, which may already have spent its own."""
MAX_FAILED_SOLUTIONS = 5
"""Trials without one that keeps the goal, after which every other one is a half of an earlier one's int8 operators: an
estimate that is wrong by orders of magnitude needs many solutions to be corrected."""
MAX_UNTIMED_SOLUTIONS = 2
"""Largest number of solutions tried before latency terms are fitted, which takes time. They may meet the goal."""


class IlpStrategy(StepwiseStrategy):
    """Minimizes predicted latency under a limit on predicted loss, by integer programming.

    1. Measure the default int8 scheme everywhere, before anything is estimated.
    2. Estimate sensitivity. Where there are other calibration algorithms, granularities or graph options, compare their
       effects on the outputs without trials. Fit latency terms once the goal is met, or once two solutions made without
       them have missed it; at once where int8 everywhere is slower than fp32.
    3. Choose a scheme for each operator by an integer program and measure the solution. Correct the prices by Bayesian
       regression on the measured loss and latency. Repeat, with the limit tightened by the error of the prediction.
    4. End when, according to the models, no other configuration can be better.

    Several solutions may be open: each is made as if the open ones had the loss and the cost that are predicted.
    While no trial keeps the goal, every other trial after the first few is a half of an earlier one's int8 operators.
    Where no model is predicted to keep the goal, as may be with a required gain in accuracy, the predictions may be
    wrong: the configurations that are likely the closest are tried, to the end of the budget.

    Source: Yao et al., "HAWQ-V3: Dyadic Neural Network Quantization", ICML 2021, section 3.4: an integer program
    over operators under a constraint, with one perturbation per layer from second-order sensitivity and a table of
    latencies of single layers. Here latency is minimized and the loss is the constraint. The latency terms are fitted
    to whole models, with conversions between int8 and fp32 charged once per tensor. Every solution runs in real int8
    kernels, and its measurement corrects both predictions.

    Args:
        settings: The strategy's settings; None for the defaults.
        problem: The tuning problem.
        closest: Whether to go on where no model is predicted to keep the goal. False for a strategy that has a use of
            its own for the trials that are left.
    """

    settings: IlpSettings

    def __init__(self, settings: IlpSettings | None, problem: Problem, closest: bool = True) -> None:
        super().__init__(settings or IlpSettings(), problem)
        self._goes_on = closest
        self._search: Search | None = None
        self._trials: list[Trial] = []

    def steps(self) -> Steps:
        """See `StepwiseStrategy.steps`."""
        self.stage, self.note, self.predicted = "default int8", "default int8 everywhere", None
        trial = yield self.problem.space.default()
        self.stage = "integer program"
        seed = int(self.problem.rng.integers(2**31))
        self._trials, divergences = [trial], dict[str, float | None]()
        if not self.problem.goal.kept_by(trial) and not self.problem.goal.slower(trial):
            self._search = self._informed(Search(self.settings, self.problem, seed, divergences, timed=False))
            yield Several(self._untimed(self._search), self._trials.append)
        self._search = self._informed(Search(self.settings, self.problem, seed, divergences))
        yield Several(self._timed(self._search), self._trials.append)

    def _untimed(self, search: Search) -> Iterator[Config | None]:
        """The first solutions, of a search without latency terms, until one keeps the goal."""
        for _ in range(MAX_UNTIMED_SOLUTIONS):
            point = None if self.problem.goal.kept_by(self._trials[-1]) else self._next(search)
            if point is None:
                return
            search.expect(point.config)
            yield point.config

    def _timed(self, search: Search) -> Iterator[Config | None]:
        """Solutions and halves until the search ends; None where they depend on an open trial."""
        late = 2 * len(self.problem.space.groups).bit_length()
        while True:
            config = self._half(search) if len(self._trials) > MAX_FAILED_SOLUTIONS else None
            if config is not None:
                search.expect(config)
                yield config
            point = self._next(search)
            if point is not None:
                search.expect(point.config)
                yield point.config
                continue
            # Where the program ends without a model that keeps the goal, its prices may be wrong: halves go on.
            end = self.note
            config = self._half(search) if late > 0 else None
            if config is not None:
                late -= 1
                search.expect(config)
                yield config
            elif (config := self._closest(search)) is not None:
                search.expect(config)
                yield config
            elif self._open:
                yield None
            else:
                self.stage, _, self.ended = end.partition(": ")
                return

    def _half(self, search: Search) -> Config | None:
        """See `half`."""
        config = search.half()
        if config is not None:
            self.predicted = None
            self.note = "half of the int8 operators of an earlier trial, as none has kept the goal"
        return config

    def _closest(self, search: Search) -> Config | None:
        """See `Search.closest`."""
        point, note = search.closest() if self._goes_on else (None, "")
        if point is None:
            return None
        self.note, self.predicted = note, search.expected(point)
        return point.config

    def _next(self, search: Search) -> Point | None:
        point, self.note = search.next()
        self.predicted = search.expected(point) if point is not None else None
        return point

    def _informed(self, search: Search) -> Search:
        for trial in self._trials:
            search.tell(trial)
        return search

    def observe(self, trial: Trial) -> None:
        """See `Strategy.observe`. The search learns at once, so that `front` includes the last trial of a run."""
        super().observe(trial)
        if self._search is not None:
            self._search.tell(trial)

    def front(self, count: int = MAX_FRONT_POINTS) -> list[Config]:
        """See `Strategy.front`: the predicted front, the cheapest configuration first.

        Empty until the first estimate, which follows the trial of the default.
        """
        return [point.config for point in self._predicted_front(count)]

    def _predicted_front(self, count: int = MAX_FRONT_POINTS, seconds: float | None = None) -> list[Point]:
        return self._search.front(count, seconds) if self._search is not None else []

    def close(self) -> None:
        """Write the front to ``pareto.json`` in the run's folder."""
        front = self._predicted_front(seconds=FRONT_SECONDS) if self.problem.state_dir is not None else []
        if self.problem.state_dir is None or not front:
            return
        first = self.problem.goal.constraints[0]
        data = {
            "schema_version": SCHEMA_VERSION,
            "objectives": [o.name for o in self.problem.goal.objectives],
            "metric": first.metric,
            "tolerated_loss": first.loss(first.threshold),
            "points": [
                {
                    "cost": p.cost,
                    "cost_sd": p.cost_sd,
                    "loss": p.loss,
                    "loss_sd": p.loss_sd,
                    "fingerprint": p.config.fingerprint,
                    "config": p.config.to_dict(),
                }
                for p in front
            ],
        }
        _write(self.problem.state_dir / FRONT_FILE, json.dumps(data, indent=1) + "\n")


def _write(path: Path, text: str) -> None:
    """Write a file atomically."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
