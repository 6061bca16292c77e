"""kill -9 at any moment: nothing that was measured is lost, nothing is measured twice, the end is the same."""

import numpy as np
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["basic", "random"])
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(lab, tools, strategy):
    arguments = lab.toy(f"strategy={strategy}", "tuning.max_trials=25", "backend.trial_seconds=0.1")
    assert lab.run(*arguments, "run_dir=whole")[0] in (0, 3)
    kills = tools.kill_and_resume(lab, arguments, "killed", np.random.default_rng(5), most=4)
    assert kills >= 1
    whole, killed = lab.result("whole"), lab.result("killed")
    assert killed["tuned"]["config"] == whole["tuned"]["config"]
    assert [t["fingerprint"] for t in lab.journal("killed")] == [t["fingerprint"] for t in lab.journal("whole")]
