"""Journals of large models: compact lines, whose operators are named in a file of their own, once."""

import json
import logging

import numpy as np
import pytest

from nc_strategies.errors import EngineError, InputError
from nc_strategies.problem import Trial, TrialState
from nc_strategies.report.run_files import RunFiles
from nc_strategies.space import Config, OpScheme, TensorScheme
from nc_strategies.study import compact
from nc_strategies.study.journal import Journal
from nc_strategies.testing import ToyOp, toy_space
from nc_strategies.testing.toy import toy_evaluation

OPS = [ToyOp(f"block_{i}/conv") for i in range(300)]
SPACE = toy_space(OPS)


def trials(count=4, space=SPACE, ops=OPS, first=1):
    rng = np.random.default_rng(first)
    configs = [space.default(), *(space.sample(rng) for _ in range(count - 1))]
    return [
        Trial(number, config, TrialState.OK, toy_evaluation(ops, config), note="a sample")
        for number, config in enumerate(configs, first)
    ]


def written(folder, made=None, operators=()):
    journal = Journal(folder, "accuracy", operators)
    for trial in made or trials():
        journal.append(trial)
    return journal


def told(found):
    return [(t.number, t.config, t.config.fingerprint, t.state, t.evaluation, t.note) for t in found]


def test_trials_come_back_as_they_were_from_short_lines(tmp_path):
    written(tmp_path)
    assert told(Journal(tmp_path, "accuracy").read()) == told(trials())
    lines = (tmp_path / "trials.jsonl").read_bytes().splitlines()
    assert max(map(len, lines)) < 3000 < len(json.dumps(trials()[0].config.to_dict())) / 10
    assert {json.loads(line)["schema"] for line in lines} == {3}
    assert [json.loads(line)["fingerprint"] for line in lines] == [t.config.fingerprint for t in trials()]


def test_the_page_and_the_commands_read_them_too(tmp_path):
    written(tmp_path)
    (tmp_path / "config.yaml").write_text("identity: {}\n")
    assert told(RunFiles.read(tmp_path).trials) == told(trials())


def test_operators_are_named_once(tmp_path):
    written(tmp_path)
    stored = json.loads((tmp_path / compact.FILE).read_text())
    assert list(stored["operators"].values()) == [[op.name for op in OPS]]


def test_a_line_of_few_operators_is_as_it_was(tmp_path):
    space = toy_space(OPS[: compact.MAX_PLAIN_OPERATORS])
    (trial,) = trials(1, space, OPS[: compact.MAX_PLAIN_OPERATORS])
    written(tmp_path, [trial])
    line = json.loads((tmp_path / "trials.jsonl").read_text())
    assert (line["schema"], line["config"]) == (2, trial.config.to_dict())
    assert not (tmp_path / compact.FILE).exists()


def test_plain_and_compact_lines_stand_in_one_journal(tmp_path):
    """As in a run that an earlier version began, or of two models with other operators."""
    old = trials(2)
    journal = written(tmp_path, old)
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    for line, trial in zip(lines, old, strict=True):
        line.update(schema=2, config=trial.config.to_dict())
    del lines[0]["schema"], lines[0]["note"]  # version 1
    journal.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    other = toy_space(OPS[:250])
    new = [*trials(2, first=3), *trials(2, other, OPS[:250], first=5)]
    written(tmp_path, new)
    found = Journal(tmp_path, "accuracy").read()
    assert [t.config for t in found] == [t.config for t in [*old, *new]]
    assert [t.number for t in found] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("count", [1, 64, 65, 299])
def test_any_number_of_schemes_has_codes(tmp_path, count):
    schemes = [OpScheme(TensorScheme("int8", f"scheme {i}")) for i in range(count)]
    config = Config(tuple((op.name, schemes[i % count]) for i, op in enumerate(OPS)), (("fold", True), ("n", 2)))
    journal = written(tmp_path, [Trial(1, config, TrialState.FAILED, error="no")])
    (found,) = journal.read()
    assert found.config == config
    (again,) = Journal(tmp_path, "accuracy").read()
    assert again.config.to_dict() == config.to_dict()


@pytest.mark.parametrize("cut", [1, 40, 600])
def test_a_torn_last_line_is_dropped_and_measured_again(tmp_path, caplog, cut):
    journal = written(tmp_path)
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-cut])
    with caplog.at_level(logging.WARNING):
        assert told(Journal(tmp_path, "accuracy").read()) == told(trials()[:3])
    assert "the last line is incomplete and dropped" in caplog.text
    assert journal.path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:3])
    written(tmp_path, trials()[3:])
    assert journal.path.read_bytes() == whole


DAMAGES = {
    "lost": lambda path: path.unlink(),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "of another model": lambda path: path.write_text(path.read_text().replace("block_7/", "block_8/")),
    "no object": lambda path: path.write_text("[]"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_of_operators_is_one_line_to_a_reader(tmp_path, damage):
    written(tmp_path)
    damage(tmp_path / compact.FILE)
    with pytest.raises(InputError) as caught:
        Journal(tmp_path, "accuracy").read()
    text = str(caught.value)
    assert "line 1): cannot be read (trials.operators.json does not hold its operators" in text
    assert "\n" not in text


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_run_that_knows_its_operators_replaces_the_damaged_file(tmp_path, damage):
    written(tmp_path)
    damage(tmp_path / compact.FILE)
    names = [op.name for op in OPS]
    journal = Journal(tmp_path, "accuracy", names)
    assert told(journal.read()) == told(trials())
    journal.append(trials(1, first=5)[0])
    assert [t.number for t in Journal(tmp_path, "accuracy").read()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "change",
    [
        {"codes": "00"},
        {"codes": "*" * 300},
        {"codes": None},
        {"operators": "unknown"},
        {"operators": []},
        {"schemes": [{}]},
        {"schemes": 3},
        {"schemes": []},
        {"options": None},
    ],
    ids=str,
)
def test_a_corrupt_compact_line_is_an_input_error_with_its_number(tmp_path, change):
    journal = written(tmp_path)
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    lines[1]["config"].update(change)
    journal.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=r"trials.jsonl, line 2\): cannot be read"):
        Journal(tmp_path, "accuracy").read()


def test_a_full_disk_leaves_no_line_without_its_operators(tmp_path, monkeypatch):
    def full(*_):
        raise EngineError("trials.operators.json cannot be written (No space left on device)")

    monkeypatch.setattr(compact, "write_atomically", full)
    journal = Journal(tmp_path, "accuracy")
    with pytest.raises(EngineError, match="No space left"):
        journal.append(trials()[0])
    assert not journal.path.exists()
    monkeypatch.undo()
    journal.append(trials()[0])
    assert told(Journal(tmp_path, "accuracy").read()) == told(trials()[:1])
