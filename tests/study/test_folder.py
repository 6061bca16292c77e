"""The run's folder: checked without a trace, never half-written."""

from pathlib import Path

import pytest
import yaml

from nc_strategies.errors import InputError
from nc_strategies.runtime.files import write_atomically
from nc_strategies.study.folder import RunFolder

IDENTITY = {"strategy": {"name": "basic"}, "seed": 0, "tolerable_loss": 1e-5, "model_sha256": "a" * 64}


@pytest.mark.parametrize("path", ["new", "some/way/down"])
def test_checking_a_new_folder_leaves_nothing_behind(tmp_path, path):
    folder = RunFolder(tmp_path / path)
    assert not folder.resumes
    assert list(tmp_path.iterdir()) == []


def test_checking_an_empty_folder_leaves_it_empty(tmp_path):
    assert not RunFolder(tmp_path).resumes
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_folder_s_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"^run_dir: .*file is not a folder$"):
        RunFolder(tmp_path / "file")
    with pytest.raises(InputError, match=r"^run_dir: .* cannot be written \(Not a directory\)$"):
        RunFolder(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_refused():
    with pytest.raises(InputError, match=r"^run_dir: /proc/ncs/run cannot be written \("):
        RunFolder(Path("/proc/ncs/run"))


def test_a_name_that_no_folder_can_have_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"^run_dir: "):
        RunFolder(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("thesis.tex", "mine"),
        ("config.yaml", "a: 1"),
        ("config.yaml", "- a list"),
        ("config.yaml", "identity: text"),
        (".hidden", ""),
    ],
)
def test_a_folder_with_files_of_something_else_is_refused_and_untouched(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(
        InputError,
        match=r"^run_dir: .* holds files that are not of an earlier run; "
        r"an empty or new folder, or that of the run to resume$",
    ):
        RunFolder(tmp_path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, content)]


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe\x00"])
def test_a_configuration_that_cannot_be_read_is_refused(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"^run_dir: .*config\.yaml cannot be read .*; use another folder$"):
        RunFolder(tmp_path)


def test_a_started_folder_resumes_the_same_run(tmp_path):
    RunFolder(tmp_path / "run").start({"tuning": {"seed": 0}}, IDENTITY)
    folder = RunFolder(tmp_path / "run")
    assert folder.resumes
    assert folder.config["tuning"] == {"seed": 0}
    folder.check(IDENTITY)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["identity"] == IDENTITY


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "seed (seed was 0, is 1)"),
        ({"strategy": {"name": "random"}}, "strategy (strategy was {'name': 'basic'}, is {'name': 'random'})"),
        ({"seed": 1, "tolerable_loss": 0.5}, "seed, tolerable_loss (seed was 0, is 1)"),
        ({"more": 1}, "more (more was None, is 1)"),
        ({"model_sha256": "b" * 64}, f"model_sha256 (model_sha256 was {'a' * 37}..., is {'b' * 37}...)"),
    ],
)
def test_a_run_of_something_else_is_refused_with_what_differs(tmp_path, change, said):
    RunFolder(tmp_path).start({}, IDENTITY)
    with pytest.raises(InputError) as caught:
        RunFolder(tmp_path).check({**IDENTITY, **change})
    message = str(caught.value)
    assert message.startswith(f"run_dir: {tmp_path} holds a run with other settings: {said}; use another run_dir")


def test_a_setting_that_is_gone_differs_too(tmp_path):
    RunFolder(tmp_path).start({}, IDENTITY)
    with pytest.raises(InputError, match=r"seed \(seed was 0, is None\)"):
        RunFolder(tmp_path).check({key: value for key, value in IDENTITY.items() if key != "seed"})


def test_a_new_folder_takes_any_run(tmp_path):
    RunFolder(tmp_path / "new").check(IDENTITY)


@pytest.mark.parametrize("content", [None, "", "{", "[1]"])
def test_a_result_that_cannot_be_read_is_none(tmp_path, content):
    RunFolder(tmp_path).start({}, IDENTITY)
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    assert RunFolder(tmp_path).result() is None


def test_an_earlier_result_is_read(tmp_path):
    RunFolder(tmp_path).start({}, IDENTITY)
    (tmp_path / "result.json").write_text('{"status": "met"}')
    assert RunFolder(tmp_path).result() == {"status": "met"}


def test_a_file_is_replaced_whole_and_nothing_stays_beside_it(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "one")
    write_atomically(path, "zwei ä ü")
    assert path.read_text(encoding="utf-8") == "zwei ä ü"
    assert list(tmp_path.iterdir()) == [path]
