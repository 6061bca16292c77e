"""The tuning problem: goal, evaluations, trials, latency terms. Pure data."""

from nc_strategies.problem.evaluation import Evaluation, Prediction, Trial, TrialState
from nc_strategies.problem.latency import ConversionEdge, LatencyTerms
from nc_strategies.problem.objective import Constraint, Goal, Objective
from nc_strategies.problem.problem import Problem

__all__ = [
    "ConversionEdge", "Constraint", "Evaluation", "Goal", "LatencyTerms", "Objective", "Prediction", "Problem", "Trial",
    "TrialState",
]  # fmt: skip
