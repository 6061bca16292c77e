"""Strategies on a problem whose optimum is known: 54 operators with independent prices.

Int8 in operator i saves a share of the time which is lognormal(0, 0.8), 0.6 in all, and loses accuracy which is
lognormal(0, 1.5), 0.05 in all; 0.01 may be lost. Strategies are given estimates which are off by lognormal(0, 0.3) for
time and lognormal(0, 0.7) for loss, and never see the true values but by their own trials. fp32 costs 1.

    python benchmarks/synthetic_search.py --strategies random basic sigopt --budgets 40 100 --seeds 10
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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

Array = NDArray[np.float64]
OPERATORS, SAVED, LOST, ALLOWED, ACCURACY = 54, 0.6, 0.05, 0.01, 0.75
INT8 = OpScheme(TensorScheme("uint8", "asym"), TensorScheme("int8", "sym", "per_channel"))


@dataclass(frozen=True)
class Synthetic:
    """One drawn problem: true prices, and the estimates of them, by operator."""

    saved: Array
    lost: Array
    saved_estimate: Array
    lost_estimate: Array

    @staticmethod
    def draw(seed: int) -> Synthetic:
        """The problem with a seed."""
        rng = np.random.default_rng(seed)
        saved, lost = rng.lognormal(0, 0.8, OPERATORS), rng.lognormal(0, 1.5, OPERATORS)
        saved, lost = saved / saved.sum() * SAVED, lost / lost.sum() * LOST
        return Synthetic(saved, lost, saved * rng.lognormal(0, 0.3, OPERATORS), lost * rng.lognormal(0, 0.7, OPERATORS))

    def evaluate(self, config: Config) -> Evaluation:
        """What measuring a configuration gives, without noise."""
        int8 = np.array([not scheme.is_float for _, scheme in config.ops])
        cost = float(1.0 - self.saved[int8].sum())
        return Evaluation((("accuracy", float(ACCURACY - self.lost[int8].sum())),), (("latency_ms", cost),),
                          (("latency", cost),), (("latency", 0.0),), 1000, int(int8.sum()), int((~int8).sum()))

    def problem(self, budget: int, seed: int, estimates: bool) -> Problem:
        """What a strategy is given."""
        space = Space(Capabilities(tuple(OpCapability(f"op{i:02d}", "Conv", (INT8, FLOAT), parameters=1000)
                                         for i in range(OPERATORS))))
        goal = Goal((Constraint.from_baseline("accuracy", ACCURACY, True, "absolute", ALLOWED),),
                    (Objective("latency", tie=0.0),))

        def sensitivity() -> dict[str, float]:
            return dict(zip(space.ops, self.lost_estimate.tolist(), strict=True))

        def latency_model(config: Config) -> float:
            int8 = np.array([not scheme.is_float for _, scheme in config.ops])
            return float(1.0 - self.saved_estimate[int8].sum())

        return Problem(space, goal, self.evaluate(space.all_float()), np.random.default_rng([seed, 0]), budget,
                       sensitivity=sensitivity if estimates else None,
                       latency_model=latency_model if estimates else None)

    def optimum(self) -> float:
        """The lowest cost within the loss that is allowed, by integer programming."""
        with _quiet():
            found = milp(-self.saved, constraints=LinearConstraint(self.lost[None], ub=ALLOWED),
                         integrality=np.ones(OPERATORS), bounds=Bounds(0, 1))
        return float(1.0 + found.fun)


@contextmanager
def _quiet() -> Iterator[None]:
    """HiGHS writes a stray line to standard output now and then."""
    sys.stdout.flush()
    kept = os.dup(1)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def search(name: str, budget: int, seed: int, estimates: bool) -> list[float]:
    """The lowest feasible cost after each trial; 1, which is fp32, before there is one."""
    drawn = Synthetic.draw(seed)
    problem = drawn.problem(budget, seed, estimates)
    group: dict[str, Any] = {"name": name, **({"driver": "local"} if name == "sigopt" else {})}
    strategy = registry().create("strategy", group, problem)
    known: dict[str, Trial] = {}
    best, course = 1.0, []
    for _ in range(100 * budget):
        config = strategy.propose()
        if config is None or len(known) >= budget:
            break
        if config.fingerprint not in known:
            done = drawn.evaluate(config)
            known[config.fingerprint] = Trial(len(known) + 1, config, TrialState.OK, done)
            best = min(best, done.ratio("latency")) if problem.goal.feasible(done) else best
            course.append(best)
        strategy.observe(known[config.fingerprint])
    strategy.close()
    return course


def main() -> None:
    """Run what was asked for, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--strategies", nargs="+", default=["random", "basic", "sigopt"])
    parser.add_argument("--budgets", nargs="+", type=int, default=[40, 100])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--no-estimates", action="store_true", help="give strategies no estimates")
    parser.add_argument("--output", type=Path, default=Path("synthetic_search.json"))
    arguments = parser.parse_args()
    optima = [Synthetic.draw(seed).optimum() for seed in range(arguments.seeds)]
    rows = []
    print(f"{'strategy':<12}{'budget':>7}{'mean':>8}{'min':>8}{'max':>8}{'sd':>8}{'s/run':>8}")
    for name in arguments.strategies:
        for budget in arguments.budgets:
            start = time.perf_counter()
            found = [(search(name, budget, seed, not arguments.no_estimates) or [1.0])[-1]
                     for seed in range(arguments.seeds)]
            rows.append({"strategy": name, "budget": budget, "mean": float(np.mean(found)), "min": min(found),
                         "max": max(found), "sd": float(np.std(found)), "costs": found,
                         "seconds": (time.perf_counter() - start) / arguments.seeds})
            print(f"{name:<12}{budget:>7}{np.mean(found):>8.3f}{min(found):>8.3f}{max(found):>8.3f}"
                  f"{np.std(found):>8.3f}{rows[-1]['seconds']:>8.2f}", flush=True)
    print(f"{'optimum':<12}{'':>7}{np.mean(optima):>8.3f}{min(optima):>8.3f}{max(optima):>8.3f}{np.std(optima):>8.3f}")
    arguments.output.write_text(json.dumps({"rows": rows, "optima": optima, "estimates": not arguments.no_estimates,
                                            "operators": OPERATORS}, indent=2) + "\n")


if __name__ == "__main__":
    main()
