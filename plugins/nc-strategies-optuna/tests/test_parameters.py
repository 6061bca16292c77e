"""What parameters read off a configuration."""

from nc_strategies_optuna.estimate import estimate
from nc_strategies_optuna.parameters import Parameters

from nc_strategies.testing import ToyOp, toy_problem

GRANULARITY = "weight_granularity"


def test_a_graph_wide_choice_is_what_most_operators_in_int8_have():
    problem = toy_problem([ToyOp(f"op{i}", loss=1e-4) for i in range(5)])
    space, parameters = problem.space, Parameters(problem.space, estimate(problem))
    usual, other = parameters.knobs[GRANULARITY]
    rare = next(s for s in space.ops["op0"].schemes if s.weight is not None and s.weight.granularity == other)
    two = space.default().with_op("op0", "op1", scheme=rare)
    assert parameters.knob_of(two, GRANULARITY) == usual
    assert parameters.knob_of(two.with_op("op2", scheme=rare), GRANULARITY) == other
    # The two that are left of the usual ones stay in float, and do not count.
    assert parameters.knob_of(two.with_op("op2", "op3"), GRANULARITY) == other
    assert parameters.int8_tied_ops(two.with_op("op2", "op3")) == [
        i for i, tied_op in enumerate(parameters.estimate.tied_ops) if tied_op[0] not in ("op2", "op3")
    ]
