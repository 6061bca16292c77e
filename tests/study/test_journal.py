"""The journal: what was measured is on disk, and comes back as it was."""

import errno
import json
import logging
import os

import pytest

from nc_strategies.errors import EngineError, InputError
from nc_strategies.problem import Prediction, Trial, TrialState
from nc_strategies.study.journal import Journal
from nc_strategies.testing import ToyOp, toy_space
from nc_strategies.testing.toy import toy_evaluation

OPS = [ToyOp("a", loss=0.01), ToyOp("b")]
SPACE = toy_space(OPS)
CONFIGS = [SPACE.default(), *SPACE.neighbours(SPACE.default())][:3]
TRIALS = [
    Trial(
        1,
        CONFIGS[0],
        TrialState.OK,
        toy_evaluation(OPS, CONFIGS[0]),
        note="default",
        predicted=Prediction(0.4, 0.02, 0.01, 0.001),
    ),
    Trial(2, CONFIGS[1], TrialState.FAILED, error='b cannot run: "so" it\nsays ä ü'),
    Trial(3, CONFIGS[2], TrialState.PRUNED, toy_evaluation(OPS, CONFIGS[2]), predicted=Prediction(0.5, 0.02)),
]


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path, "accuracy")
    for trial in TRIALS:
        journal.append(trial)
    return journal


def told(trial):
    return trial.number, trial.config, trial.state, trial.evaluation, trial.error, trial.note, trial.predicted


def test_trials_come_back_as_they_were_and_say_that_they_are_resumed(journal):
    read = journal.read()
    assert [told(t) for t in read] == [told(t) for t in TRIALS]
    assert all(t.resumed for t in read)


def test_a_line_without_a_prediction_is_read(journal):
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    journal.path.write_text(
        "".join(json.dumps({k: v for k, v in line.items() if k != "predicted"}) + "\n" for line in lines)
    )
    assert [t.predicted for t in journal.read()] == [None, None, None]


def test_there_are_no_trials_without_a_file(tmp_path):
    assert Journal(tmp_path, "accuracy").read() == []


def test_each_trial_is_on_disk_when_append_returns(tmp_path):
    journal = Journal(tmp_path, "accuracy")
    for count, trial in enumerate(TRIALS, 1):
        journal.append(trial)
        assert journal.path.read_bytes().count(b"\n") == count


def test_a_line_has_the_keys_that_are_relied_on(journal):
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert {"number", "fingerprint", "config", "state", "accuracy", "samples", "latency_ms", "seconds", "error"} <= set(
        lines[0]
    )
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


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[]",
        b"null",
        b"7",
        b"{}",
        b"\xff\xfe",
        b'{"number": null}',
        b'{"number": 2, "config": {"ops": {}}, "state": "asleep", "evaluation": null, "error": null}',
        b'{"number": 2, "config": null, "state": "failed", "evaluation": null, "error": null}',
        b"",
    ],
)
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


# One line as version 0.1.0 wrote it, before lines said their schema.
RECORDED = (
    '{"number": 7, "fingerprint": "x", "state": "ok", "accuracy": 0.89, "samples": 1000, "latency_ms": 0.03, '
    '"seconds": {"build": 0.0}, "error": null, "evaluation": {"metrics": {"accuracy": 0.89}, '
    '"values": {"latency_ms": 0.03}, "ratios": {"latency": 0.375}, "spread": {"latency": 0.0}, "samples": 1000, '
    '"int8_ops": 2, "fp32_ops": 0, "seconds": {"build": 0.0}, "graph": "abc"}, "config": CONFIG}\n'
)


def test_a_journal_of_the_first_schema_is_read(tmp_path):
    line = RECORDED.replace("CONFIG", json.dumps(CONFIGS[0].to_dict()))
    (tmp_path / "trials.jsonl").write_text(line)
    (trial,) = Journal(tmp_path, "accuracy").read()
    assert (trial.number, trial.config, trial.note) == (7, CONFIGS[0], "")
    assert trial.evaluation.ratio("latency") == 0.375


def test_a_journal_of_a_later_schema_is_refused(tmp_path, journal):
    line = json.loads(journal.path.read_text().splitlines()[0])
    journal.path.write_text(json.dumps({**line, "schema": 99}) + "\n")
    with pytest.raises(InputError, match=r"line 1.*schema 99; this version knows 1 to 3"):
        journal.read()


def test_a_full_disk_leaves_the_journal_as_it_was(journal, monkeypatch):
    before, write = journal.path.read_bytes(), os.write

    def little(descriptor, data):
        if len(data) <= 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:-20])

    monkeypatch.setattr("nc_strategies.study.journal.os.write", little)
    with pytest.raises(EngineError, match=r"trials.jsonl cannot be written \(No space left on device\)"):
        journal.append(TRIALS[0])
    assert journal.path.read_bytes() == before
