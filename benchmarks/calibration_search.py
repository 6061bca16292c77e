"""Calibration of the predictions of the strategy `ilp`, on a synthetic problem with a known optimum.

Latency terms have two errors: a lognormal(0, 0.3) factor on each operator's saving, and one common factor between 0.7
and 1.4 per seed. The common factor applies to every cost (``cost``), as when fp32 was timed in a slower or faster
session, or to every saving (``saving``). Timing has one lognormal error per trial. The trial's own interval shows half
of it, as when latency varies between sessions of the same graph.

The table shows for the trials from the third on: the share of measured costs within their predicted 95 % intervals, the
mean of the standardized residuals and their root mean square, and the number of predictions. Further columns are, both
relative to the optimum, the lowest true cost of a trial within the limit and the true cost of the trial with the best
measurement; the number of trials; and the shares of searches that ended because the remaining gain was below the timing
noise, or because no better configuration was possible.

    python benchmarks/calibration_search.py --seeds 20 --noise 0.01 0.05 0.15
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from nc_strategies.api import (
    FLOAT,
    Capabilities,
    Config,
    Constraint,
    Evaluation,
    Goal,
    LatencyTerms,
    Objective,
    OpCapability,
    OpScheme,
    Problem,
    Space,
    TensorScheme,
    Trial,
    TrialState,
)
from nc_strategies.strategies.ilp.program import quiet
from nc_strategies.strategies.ilp.settings import IlpSettings
from nc_strategies.strategies.ilp.strategy import IlpStrategy

Array = NDArray[np.float64]
INT8 = OpScheme(TensorScheme("uint8", "asym"), TensorScheme("int8", "sym", "per_channel"))
OPERATORS, TOTAL_SAVING, TOTAL_LOSS, TOLERATED_LOSS, FP32_ACCURACY, SAMPLES = 24, 0.5, 0.05, 0.01, 0.75, 10**9
LOWEST_FACTOR, HIGHEST_FACTOR = 0.7, 1.4
SHOWN_NOISE_SHARE = 0.5
"""Share of the timing noise that a trial's own interval shows."""
FIRST_EVALUATED_TRIAL = 3
"""Number of the first trial whose prediction is evaluated."""
KINDS = ("cost", "saving")


@dataclass(frozen=True)
class Drawn:
    """One problem: true prices per operator, their estimates, and the common factor."""

    saved: Array
    lost: Array
    terms: Array
    sensitivity: Array
    factor: float
    kind: str
    noise: float
    seed: int

    @staticmethod
    def draw(seed: int, noise: float, kind: str = "cost") -> Drawn:
        """The problem with a seed."""
        rng = np.random.default_rng([seed, 7])
        saved, lost = rng.lognormal(0, 0.8, OPERATORS), rng.lognormal(0, 1.5, OPERATORS)
        saved, lost = saved / saved.sum() * TOTAL_SAVING, lost / lost.sum() * TOTAL_LOSS
        terms, losses = saved * rng.lognormal(0, 0.3, OPERATORS), lost * rng.lognormal(0, 0.7, OPERATORS)
        return Drawn(saved, lost, terms, losses, float(rng.uniform(LOWEST_FACTOR, HIGHEST_FACTOR)), kind, noise, seed)

    def cost(self, config: Config) -> float:
        """True cost of a configuration relative to fp32."""
        int8 = np.array([not scheme.is_float for _, scheme in config.ops])
        if not int8.any():
            return 1.0
        saved = float(self.saved[int8].sum())
        return self.factor * (1 - saved) if self.kind == "cost" else 1 - self.factor * saved

    def loss(self, config: Config) -> float:
        """True loss of a configuration."""
        return float(self.lost[[not scheme.is_float for _, scheme in config.ops]].sum())

    def evaluate(self, config: Config) -> Evaluation:
        """Simulated measurement of a configuration, the same each time."""
        rng = np.random.default_rng([self.seed, int(config.fingerprint, 16)])
        cost = self.cost(config) * float(np.exp(self.noise * rng.standard_normal()))
        shown = 1.96 * SHOWN_NOISE_SHARE * self.noise * float(np.sqrt(rng.chisquare(9) / 9))
        return Evaluation(
            (("accuracy", FP32_ACCURACY - self.loss(config)),),
            (),
            (("latency", cost),),
            (("latency", shown),),
            SAMPLES,
            len(config.int8_ops),
            len(config.float_ops),
        )

    def problem(self, budget: int) -> Problem:
        """The tuning problem that the strategy gets."""
        space = Space(
            Capabilities(
                tuple(
                    OpCapability(f"op{i:02d}", "Conv", (INT8, FLOAT), parameters=1000, elements=9)
                    for i in range(OPERATORS)
                )
            )
        )
        goal = Goal(
            (Constraint.from_baseline("accuracy", FP32_ACCURACY, True, "absolute", TOLERATED_LOSS),),
            (Objective("latency"),),
        )
        terms = LatencyTerms(
            float(1 - self.terms.sum()),
            {name: {INT8: 0.0, FLOAT: float(saved)} for name, saved in zip(space.ops, self.terms, strict=True)},
        )
        baseline = Evaluation((("accuracy", FP32_ACCURACY),), (), (("latency", 1.0),), (("latency", 0.0),), SAMPLES)
        return Problem(
            space,
            goal,
            baseline,
            np.random.default_rng([self.seed, 0]),
            budget,
            sensitivity=lambda: dict(zip(space.ops, self.sensitivity.tolist(), strict=True)),
            latency_model=terms,
            latency_terms=lambda: terms,
        )

    def optimum(self) -> float:
        """The lowest true cost within the allowed loss; fp32's cost where it is lower."""
        with quiet():
            found = milp(
                -self.saved,
                constraints=LinearConstraint(self.lost[None], -np.inf, TOLERATED_LOSS),
                integrality=np.ones(OPERATORS),
                bounds=Bounds(0, 1),
            )
        saved = -float(found.fun)
        return min(1.0, self.factor * (1 - saved) if self.kind == "cost" else 1 - self.factor * saved)


@dataclass
class Course:
    """A search: its trials, their costs, and why it ended."""

    problem: Problem
    trials: list[Trial] = field(default_factory=list)
    chosen: float = 1.0
    """True cost of the trial with the best measurement; fp32's without one."""
    found: float = 1.0
    """Lowest true cost of a trial that met the constraint."""
    ended: str = ""

    @property
    def residuals(self) -> Array:
        """Measured less predicted cost of the trials from the third on, in standard deviations."""
        return np.array(
            [
                (self.problem.goal.cost(t.evaluation) - t.predicted.cost) / t.predicted.cost_sd
                for t in self.trials
                if t.number >= FIRST_EVALUATED_TRIAL and t.predicted and t.evaluation
            ]
        )


def search(drawn: Drawn, budget: int) -> Course:
    """Run the strategy on a problem."""
    course = Course(drawn.problem(budget))
    goal, strategy = course.problem.goal, IlpStrategy(IlpSettings(), course.problem)
    while len(course.trials) < budget and (config := strategy.propose()) is not None:
        done = drawn.evaluate(config)
        course.trials.append(Trial(len(course.trials) + 1, config, TrialState.OK, done, predicted=strategy.predicted))
        strategy.observe(course.trials[-1])
    else:
        course.ended = strategy.note if len(course.trials) < budget else ""
    best = goal.best(course.trials)
    if best is not None and best.evaluation is not None and goal.met(best.evaluation):
        course.chosen = drawn.cost(best.config)
    course.found = min(
        [1.0, *(drawn.cost(t.config) for t in course.trials if t.evaluation and goal.feasible(t.evaluation))]
    )
    strategy.close()
    return course


def summary(noise: float, kind: str, seeds: list[int], budget: int) -> dict[str, float | str]:
    """One line of the table."""
    drawn = [Drawn.draw(seed, noise, kind) for seed in seeds]
    courses = [search(d, budget) for d in drawn]
    residuals = np.concatenate([c.residuals for c in courses])
    return {
        "factor_of": kind,
        "noise": noise,
        "coverage": float(np.mean(np.abs(residuals) <= 1.96)),
        "mean_residual": float(residuals.mean()),
        "rms_residual": float(np.sqrt(np.mean(residuals**2))),
        "predictions": len(residuals),
        "cost_over_optimum": float(np.mean([c.chosen / d.optimum() for c, d in zip(courses, drawn, strict=True)])),
        "found_over_optimum": float(np.mean([c.found / d.optimum() for c, d in zip(courses, drawn, strict=True)])),
        "trials": float(np.mean([len(c.trials) for c in courses])),
        "ended_in_noise": float(np.mean([c.ended.startswith("noise") for c in courses])),
        "ended_proved": float(np.mean([c.ended.startswith("proved") for c in courses])),
    }


def main() -> None:
    """Run the searches, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.01, 0.05, 0.15], help="relative timing noise")
    parser.add_argument("--factor-of", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--budget", type=int, default=12, help="trials at most")
    parser.add_argument("--seeds", type=int, default=20, help="a number of them")
    parser.add_argument("--json", type=Path, default=Path("outputs/calibration_search.json"))
    arguments = parser.parse_args()
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    print(
        f"{'factor of':<10}{'noise':>7}{'coverage':>10}{'mean res.':>11}{'rms res.':>10}{'predicted':>11}"
        f"{'found/opt.':>12}{'chosen/opt.':>13}{'trials':>8}{'in noise':>10}{'proved':>8}"
    )
    for kind in arguments.factor_of:
        for noise in arguments.noise:
            rows.append(summary(noise, kind, list(range(arguments.seeds)), arguments.budget))
            r = rows[-1]
            print(
                f"{kind:<10}{noise:>7.0%}{r['coverage']:>10.1%}{r['mean_residual']:>11.2f}{r['rms_residual']:>10.2f}"
                f"{r['predictions']:>11}{r['found_over_optimum']:>12.3f}{r['cost_over_optimum']:>13.3f}{r['trials']:>8.1f}"
                f"{r['ended_in_noise']:>10.0%}{r['ended_proved']:>8.0%}",
                flush=True,
            )
    arguments.json.write_text(
        json.dumps(
            {"rows": rows, "budget": arguments.budget, "operators": OPERATORS, "interval_shows": SHOWN_NOISE_SHARE},
            indent=2,
        )
        + "\n"
    )
    print(f"figures: {arguments.json}")


if __name__ == "__main__":
    main()
