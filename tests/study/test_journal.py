"""The journal: what was measured is on disk, and comes back as it was."""

import json
import logging

import pytest

from nc_strategies.errors import InputError
from nc_strategies.problem import Trial, TrialState
from nc_strategies.study.journal import Journal
from nc_strategies.testing import ToyOp, toy_space
from nc_strategies.testing.toy import toy_evaluation

OPS = [ToyOp("a", loss=0.01), ToyOp("b")]
SPACE = toy_space(OPS)
CONFIGS = [SPACE.default(), *SPACE.neighbours(SPACE.default())][:3]
TRIALS = [
    Trial(1, CONFIGS[0], TrialState.OK, toy_evaluation(OPS, CONFIGS[0]), note="default"),
    Trial(2, CONFIGS[1], TrialState.FAILED, error="b cannot run: \"so\" it\nsays ä ü"),
    Trial(3, CONFIGS[2], TrialState.PRUNED, toy_evaluation(OPS, CONFIGS[2])),
]


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path, "accuracy")
    for trial in TRIALS:
        journal.append(trial)
    return journal


def told(trial):
    return trial.number, trial.config, trial.state, trial.evaluation, trial.error, trial.note


def test_trials_come_back_as_they_were_and_say_that_they_are_resumed(journal):
    read = journal.read()
    assert [told(t) for t in read] == [told(t) for t in TRIALS]
    assert all(t.resumed for t in read)


def test_there_are_no_trials_without_a_file(tmp_path):
    assert Journal(tmp_path, "accuracy").read() == []


def test_each_trial_is_on_disk_when_append_returns(tmp_path):
    journal = Journal(tmp_path, "accuracy")
    for count, trial in enumerate(TRIALS, 1):
        journal.append(trial)
        assert journal.path.read_bytes().count(b"\n") == count


def test_a_line_has_the_keys_that_are_relied_on(journal):
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert {"number", "fingerprint", "config", "state", "accuracy", "samples", "latency_ms", "seconds",
            "error"} <= set(lines[0])
    assert lines[0]["fingerprint"] == CONFIGS[0].fingerprint
    assert lines[0]["accuracy"] == pytest.approx(0.89)
    assert (lines[1]["accuracy"], lines[1]["latency_ms"], lines[1]["state"]) == (None, None, "failed")


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_torn_last_line_is_dropped_with_a_warning(journal, caplog, cut):
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-cut])
    with caplog.at_level(logging.WARNING):
        assert [t.number for t in journal.read()] == [1, 2]
    assert "the last line is incomplete and dropped" in caplog.text
    assert journal.path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])
    caplog.clear()
    journal.append(TRIALS[2])
    assert [told(t) for t in journal.read()] == [told(t) for t in TRIALS]
    assert not caplog.records


def test_a_file_of_nothing_but_a_torn_line_is_empty(tmp_path):
    journal = Journal(tmp_path, "accuracy")
    journal.path.write_bytes(b'{"number": 1, "fing')
    assert journal.read() == []
    assert journal.path.read_bytes() == b""


@pytest.mark.parametrize("line", [
    b"not json", b"[]", b"null", b"7", b"{}", b"\xff\xfe", b'{"number": null}',
    b'{"number": 2, "config": {"ops": {}}, "state": "asleep", "evaluation": null, "error": null}',
    b'{"number": 2, "config": null, "state": "failed", "evaluation": null, "error": null}', b""])
def test_a_corrupt_line_before_the_last_is_an_input_error_with_its_number(journal, line):
    lines = journal.path.read_bytes().splitlines()
    journal.path.write_bytes(b"\n".join([lines[0], line, lines[2], b""]))
    with pytest.raises(InputError) as caught:
        journal.read()
    message = str(caught.value)
    assert message.startswith(f"run_dir ({journal.path}, line 2): cannot be read")
    assert message.endswith("use another run_dir, or remove the line")
    assert "\n" not in message


def test_a_value_that_is_no_number_never_reaches_the_file(journal):
    before = journal.path.read_bytes()
    evaluation = type(TRIALS[0].evaluation)((("accuracy", float("nan")),))
    with pytest.raises(ValueError, match="JSON"):
        journal.append(Trial(4, CONFIGS[0], TrialState.OK, evaluation))
    assert journal.path.read_bytes() == before
