"""A run that solves for its next trial is resumed with the estimates it had, not with new ones."""

import re

import pytest

ESTIMATING = r"nc_strategies\.app\.run: (profiling|estimating sensitivity|reading [a-z ]+)$"


def stages(lab, name):
    return re.findall(ESTIMATING, lab.log(name), re.MULTILINE)


def asked(lab, name):
    return [line["fingerprint"] for line in lab.journal(name)]


@pytest.mark.slow
def test_a_resumed_program_proposes_what_it_would_have_and_estimates_nothing_twice(lab, tools):
    arguments = lab.toy("strategy=ilp", "tuning.max_trials=8", "backend.trial_seconds=0.05")
    assert lab.run(*arguments, "run_dir=whole")[0] in (0, 3)
    assert sorted(stages(lab, "whole")) == ["estimating sensitivity", "profiling"]
    (lab.folder / "hold").write_text("killed/trials.jsonl 3")
    process = lab.start(*arguments, "run_dir=killed")
    tools.wait_for(lambda: len(lab.journal("killed")) == 3)
    process.kill()
    process.communicate(timeout=120)
    (lab.folder / "hold").unlink()
    before = (lab.folder / "killed" / "estimates.json").read_bytes()
    assert before == (lab.folder / "whole" / "estimates.json").read_bytes()
    status, _, err = lab.run(*arguments, "run_dir=killed")
    assert status in (0, 3), err
    assert asked(lab, "killed") == asked(lab, "whole")
    assert lab.result("killed")["tuned"]["config"] == lab.result("whole")["tuned"]["config"]
    assert (lab.folder / "killed" / "estimates.json").read_bytes() == before
    assert sorted(stages(lab, "killed")) == [
        "estimating sensitivity",
        "profiling",
        "reading latency terms from the earlier run",
        "reading sensitivity from the earlier run",
    ]


@pytest.mark.slow
def test_an_engine_that_crashes_in_the_estimates_costs_no_run(lab):
    status, _, err = lab.run(
        *lab.toy("strategy=ilp", "backend.faults=abort", "backend.share=30", "tuning.max_trials=4", "run_dir=run")
    )
    assert status in (0, 3), err
    assert "sensitivity is estimated operator by operator: the engine crashed (SIGABRT)" in lab.log()
    assert lab.result()["trials"]["ok"] > 0
