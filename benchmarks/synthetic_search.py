"""Strategies on a synthetic problem with a known optimum: 54 operators with given prices.

The time that int8 saves in an operator is lognormal(0, 0.8), scaled to a sum of 0.6. The accuracy that it loses is
lognormal(0, 1.5), scaled to a sum of 0.05, of which 0.01 is tolerated. fp32 costs 1. Strategies get estimates with
errors of lognormal(0, 0.3) for time and lognormal(0, 0.7) for loss, and see true values only in their own trials. The
estimates cost no evaluation.

Variants: ``exact``: a trial measures the true loss. ``sampled``: a trial measures the loss on 2,000 samples; per sample
of net loss, int8 gets two samples wrong and one right on which fp32 differs, so that fp32 and int8 disagree on three.
``pairs``: a fifth of the loss belongs to 54 random pairs of operators and applies when both are in int8.

The table shows the true cost of the accepted configuration, which is the cheapest whose measured loss is within the
limit, or fp32 without one; the share of accepted configurations whose true loss exceeds the limit; and, for SigOpt, the
share of suggestions that came from the optimizer and not from the opening before it.

    python benchmarks/synthetic_search.py --strategies random basic sigopt ilp --budget 40 --seeds 0-9 --variant exact
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

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
from nc_strategies.registry import registry
from nc_strategies.strategies.ilp.program import quiet

Array = NDArray[np.float64]
OPERATORS, TOTAL_SAVING, TOTAL_LOSS, TOLERATED_LOSS, FP32_ACCURACY = 54, 0.6, 0.05, 0.01, 0.75
SAMPLES, PAIRED_LOSS_SHARE = 2000, 0.2
"""Samples of a trial of ``sampled``, and share of the loss that belongs to pairs in ``pairs``."""
NOISELESS_SAMPLES = 10**9
"""Number of samples of a trial without noise."""
CHECKPOINTS = (10, 20, 40, 100)
INT8 = OpScheme(TensorScheme("uint8", "asym"), TensorScheme("int8", "sym", "per_channel"))
VARIANTS = ("exact", "sampled", "pairs")


@dataclass(frozen=True)
class Synthetic:
    """One drawn problem: true prices per operator, and their estimates."""

    saved: Array
    lost: Array
    saved_estimate: Array
    lost_estimate: Array
    pairs: tuple[tuple[int, int, float], ...] = ()
    samples: int = NOISELESS_SAMPLES
    seed: int = 0

    @staticmethod
    def draw(seed: int, variant: str = "exact") -> Synthetic:
        """The problem with a seed."""
        rng = np.random.default_rng(seed)
        saved, lost = rng.lognormal(0, 0.8, OPERATORS), rng.lognormal(0, 1.5, OPERATORS)
        saved, lost = saved / saved.sum() * TOTAL_SAVING, lost / lost.sum() * TOTAL_LOSS
        times, losses = rng.lognormal(0, 0.3, OPERATORS), rng.lognormal(0, 0.7, OPERATORS)
        pairs: list[tuple[int, int, float]] = []
        if variant == "pairs":
            prices = rng.lognormal(0, 1.0, OPERATORS)
            prices *= TOTAL_LOSS * PAIRED_LOSS_SHARE / prices.sum()
            pairs = [(*sorted(rng.choice(OPERATORS, 2, replace=False).tolist()), float(p)) for p in prices]
            lost = lost * (1 - PAIRED_LOSS_SHARE)
        return Synthetic(
            saved,
            lost,
            saved * times,
            lost * losses,
            tuple(pairs),
            SAMPLES if variant == "sampled" else NOISELESS_SAMPLES,
            seed,
        )

    def loss(self, config: Config) -> float:
        """True loss of a configuration."""
        int8 = np.array([not scheme.is_float for _, scheme in config.ops])
        return float(self.lost[int8].sum()) + sum(p for a, b, p in self.pairs if int8[a] and int8[b])

    def evaluate(self, config: Config) -> Evaluation:
        """Simulated measurement of a configuration, the same each time."""
        int8 = np.array([not scheme.is_float for _, scheme in config.ops])
        cost, loss = float(1.0 - self.saved[int8].sum()), self.loss(config)
        if self.samples != NOISELESS_SAMPLES:
            rng = np.random.default_rng([self.seed, int(config.fingerprint, 16)])
            loss = float(rng.poisson(2 * loss * self.samples) - rng.poisson(loss * self.samples)) / self.samples
        return Evaluation(
            (("accuracy", FP32_ACCURACY - loss),),
            (("latency_ms", cost),),
            (("latency", cost),),
            (("latency", 0.0),),
            self.samples,
            int(int8.sum()),
            int((~int8).sum()),
        )

    def problem(self, budget: int, seed: int, estimates: bool) -> Problem:
        """The tuning problem that a strategy gets."""
        space = Space(
            Capabilities(
                tuple(OpCapability(f"op{i:02d}", "Conv", (INT8, FLOAT), parameters=1000) for i in range(OPERATORS))
            )
        )
        goal = Goal(
            (Constraint.from_baseline("accuracy", FP32_ACCURACY, True, "absolute", TOLERATED_LOSS),),
            (Objective("latency", tie=0.0),),
        )
        terms = LatencyTerms(
            float(1.0 - self.saved_estimate.sum()),
            {
                name: {INT8: 0.0, FLOAT: float(saved)}
                for name, saved in zip(space.ops, self.saved_estimate, strict=True)
            },
        )

        def sensitivity() -> dict[str, float]:
            return dict(zip(space.ops, self.lost_estimate.tolist(), strict=True))

        return Problem(
            space,
            goal,
            self.evaluate(space.all_float()),
            np.random.default_rng([seed, 0]),
            budget,
            sensitivity=sensitivity if estimates else None,
            latency_model=terms if estimates else None,
            latency_terms=(lambda: terms) if estimates else None,
        )

    def optimum(self) -> float:
        """The lowest cost within the allowed loss, by integer programming with one product per pair."""
        count = len(self.pairs)
        rows, low = np.zeros((1 + count, OPERATORS + count)), np.full(1 + count, -np.inf)
        rows[0] = np.concatenate([self.lost, [p for _, _, p in self.pairs]])
        high = np.array([TOLERATED_LOSS] + [1.0] * count)
        for k, (a, b, _) in enumerate(self.pairs):
            rows[k + 1, [a, b, OPERATORS + k]] = 1.0, 1.0, -1.0
        with quiet():
            found = milp(
                np.concatenate([-self.saved, np.zeros(count)]),
                constraints=LinearConstraint(rows, low, high),
                integrality=np.concatenate([np.ones(OPERATORS), np.zeros(count)]),
                bounds=Bounds(0, 1),
            )
        return float(1.0 + found.fun)


@dataclass
class Course:
    """Per evaluation, the accepted configuration's true cost and whether its true loss exceeds the limit."""

    costs: list[float] = field(default_factory=list)
    over: list[bool] = field(default_factory=list)
    seconds: float = 0.0
    finished: str = ""
    suggested: dict[str, int] = field(default_factory=dict)
    """Suggestions of SigOpt's opening and of its optimizer."""

    def at(self, evaluations: int) -> tuple[float, bool]:
        """The values after a number of evaluations, or at the end of a strategy that finished before."""
        place = min(evaluations, len(self.costs)) - 1
        return self.costs[place], self.over[place]


def search(name: str, budget: int, seed: int, variant: str, estimates: bool) -> Course:
    """Run a strategy on a drawn problem."""
    drawn = Synthetic.draw(seed, variant)
    problem = drawn.problem(budget, seed, estimates)
    group: dict[str, Any] = {"name": name, **({"driver": "local"} if name == "sigopt" else {})}
    start = time.perf_counter()
    strategy = registry().create("strategy", group, problem)
    known: dict[str, Trial] = {}
    accepted, true, course = 1.0, 0.0, Course()
    for _ in range(100 * budget):
        if len(known) >= budget:
            break
        config = strategy.propose()
        if config is None:
            course.finished = strategy.note
            break
        if config.fingerprint not in known:
            done = drawn.evaluate(config)
            known[config.fingerprint] = Trial(len(known) + 1, config, TrialState.OK, done)
            if problem.goal.feasible(done) and done.ratio("latency") < accepted:
                accepted, true = done.ratio("latency"), drawn.loss(config)
            course.costs.append(accepted)
            course.over.append(true > TOLERATED_LOSS + 1e-12)
        strategy.observe(known[config.fingerprint])
    strategy.close()
    course.suggested = getattr(strategy, "suggested", {})
    course.seconds = time.perf_counter() - start
    return course


def row(name: str, variant: str, evaluations: int, courses: list[Course], seeds: list[int]) -> dict[str, Any]:
    """One line of the table."""
    costs, over = zip(*(c.at(evaluations) for c in courses), strict=True)
    return {
        "strategy": name,
        "variant": variant,
        "evaluations": evaluations,
        "mean": float(np.mean(costs)),
        "min": min(costs),
        "max": max(costs),
        "sd": float(np.std(costs)),
        "over_limit": float(np.mean(over)),
        "seconds_per_run": float(np.mean([c.seconds for c in courses])),
        "from_optimizer": share(courses),
        "finished_early": sum(len(c.costs) < evaluations for c in courses),
        "seeds": seeds,
        "costs": list(costs),
    }


def share(courses: list[Course]) -> float | None:
    """Share of the suggestions of whole runs that came from the optimizer; None for strategies that have no such."""
    total = sum(sum(course.suggested.values()) for course in courses)
    return sum(course.suggested.get("optimizer", 0) for course in courses) / total if total else None


def _seeds(text: str) -> list[int]:
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else list(range(int(first)))


def main() -> None:
    """Run the searches, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--strategies", nargs="+", default=["random", "basic", "sigopt", "ilp"])
    parser.add_argument("--budget", type=int, default=100, help="evaluations at most")
    parser.add_argument("--seeds", type=_seeds, default=_seeds("10"), help="a number of them, or a range such as 10-19")
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, default=["exact"])
    parser.add_argument("--no-estimates", action="store_true", help="give strategies no estimates")
    parser.add_argument("--json", type=Path, default=Path("outputs/synthetic_search.json"))
    arguments = parser.parse_args()
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    rows, optima = [], {}
    for variant in arguments.variant:
        print(
            f"{variant}\n{'strategy':<10}{'evaluations':>12}{'mean':>8}{'min':>8}{'max':>8}{'sd':>8}"
            f"{'over limit':>12}{'ended':>7}{'s/run':>8}{'optimizer':>11}"
        )
        for name in arguments.strategies:
            run = partial(search, name, arguments.budget, variant=variant, estimates=not arguments.no_estimates)
            courses = [run(seed) for seed in arguments.seeds]
            for evaluations in sorted({k for k in CHECKPOINTS if k < arguments.budget} | {arguments.budget}):
                rows.append(row(name, variant, evaluations, courses, arguments.seeds))
                last = rows[-1]
                print(
                    f"{name:<10}{evaluations:>12}{last['mean']:>8.3f}{last['min']:>8.3f}{last['max']:>8.3f}"
                    f"{last['sd']:>8.3f}{last['over_limit']:>12.0%}{last['finished_early']:>7}"
                    f"{last['seconds_per_run']:>8.2f}"
                    + (f"{last['from_optimizer']:>11.0%}" if last["from_optimizer"] is not None else ""),
                    flush=True,
                )
        found = optima[variant] = [Synthetic.draw(seed, variant).optimum() for seed in arguments.seeds]
        print(
            f"{'optimum':<10}{'':>12}{np.mean(found):>8.3f}{min(found):>8.3f}{max(found):>8.3f}{np.std(found):>8.3f}\n",
            flush=True,
        )
    arguments.json.write_text(
        json.dumps(
            {"rows": rows, "optima": optima, "estimates": not arguments.no_estimates, "operators": OPERATORS}, indent=2
        )
        + "\n"
    )
    print(f"figures: {arguments.json}")


if __name__ == "__main__":
    main()
