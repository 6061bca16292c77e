"""Proposals for models of many operators take short lines, and are read again."""

import json

import numpy as np
import pytest
from nc_strategies_sigopt.proposal import Proposal

from nc_strategies.testing import ToyOp, toy_space


@pytest.mark.parametrize("count", [3, 200, 201, 2000])
def test_a_proposal_is_read_as_it_was_noted(count):
    space = toy_space([ToyOp(f"block_{i}/conv") for i in range(count)])
    config = space.sample(np.random.default_rng(0))
    made = Proposal("suggestion 1a2b 7", config, "suggestion 7", {"g1": "int8"}, "7", "1a2b")
    text = json.dumps(made.record())
    assert Proposal.from_record(json.loads(text), space.ops) == made
    assert len(text) < max(60_000, 2 * count)
