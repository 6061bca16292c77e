"""Driving a strategy on a toy problem, and spaces with modes and tied operators."""

from types import SimpleNamespace

import pytest

from nc_strategies.api import (
    FLOAT,
    Capabilities,
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
from nc_strategies.testing.toy import SCHEMES, toy_evaluation, toy_problem


@pytest.fixture
def drive():
    """Returns a function that runs a strategy and returns it with its trials, each with its stage and note."""

    def run(strategy, problem, evaluate, budget=500):
        found = []
        while len(found) < budget and (config := strategy.propose()) is not None:
            assert problem.space.contains(config)
            assert config.int8_ops, "proposed fp32 everywhere, which is the baseline"
            note, stage, evaluation = strategy.note, strategy.stage, evaluate(config)
            assert note, "a proposal without a reason"
            state = TrialState.OK if evaluation is not None else TrialState.FAILED
            trial = Trial(len(found) + 1, config, state, evaluation, note=note)
            found.append(SimpleNamespace(trial=trial, config=config, note=note, stage=stage))
            strategy.observe(trial)
        prints = [item.config.fingerprint for item in found]
        assert len(set(prints)) == len(prints), "proposed a configuration twice"
        return found

    return run


@pytest.fixture
def toy(drive):
    """Returns a function that runs a strategy on a toy model: its problem, and its trials."""

    def run(kind, settings, ops, budget=500, **kwargs):
        problem = toy_problem(ops, budget=budget, **kwargs)
        return problem, drive(kind(settings, problem), problem, lambda c: toy_evaluation(ops, c), budget)

    return run


DYNAMIC = OpScheme(TensorScheme("uint8", "asym", "per_tensor", "dynamic"), TensorScheme("int8", "sym", "per_channel"))
WEIGHTS = OpScheme(TensorScheme("fp32", "none", "none", "none"), TensorScheme("int4", "asym", "per_block_32", "minmax"))
LOSS = {"static": 0.02, "dynamic": 0.001, "weight_only": 0.002, "fp32": 0.0}
TIME = {"static": 0.4, "dynamic": 0.6, "weight_only": 0.7, "fp32": 1.0}


@pytest.fixture
def modes():
    """A problem of four matrix products in every mode, two of them tied, and a convolution that may not be fp32.

    Returns:
        The problem and a function that evaluates a configuration. Static int8 loses too much in each product.
    """
    products = tuple(
        OpCapability(f"product{i}", "MatMul", (SCHEMES[0], DYNAMIC, WEIGHTS, FLOAT), parameters=100, elements=10)
        for i in range(4)
    )
    conv = OpCapability("conv", "Conv", (SCHEMES[0],), parameters=10, elements=10)
    add = OpCapability("add", "Add", (SCHEMES[0], FLOAT), elements=10)
    space = Space(
        Capabilities((conv, *products, add), tied=(("product1", "product2"),), options=(("reduce", (False, True)),))
    )

    def evaluate(config):
        weighted = {n: s for n, s in config.ops if n.startswith("product")}
        loss = sum(LOSS[s.mode] for s in weighted.values())
        cost = sum(TIME[s.mode] for s in weighted.values()) / len(weighted)
        return Evaluation(
            (("accuracy", 0.9 - loss),), (("latency_ms", cost),), (("latency", cost),), (("latency", 0.0),), 1000
        )

    goal = Goal((Constraint.from_baseline("accuracy", 0.9, True, "absolute", 0.01),), (Objective("latency"),), 1000)

    def problem(budget=500, **kwargs):
        import numpy as np

        return Problem(space, goal, evaluate(space.all_float()), np.random.default_rng(0), budget, **kwargs)

    return problem, evaluate
