"""The commands beside the run: a real second process each time, on a real run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
from rich.console import Console

from nc_strategies import samples
from nc_strategies.app import listing, machine
from nc_strategies.app.commands import parser
from nc_strategies.app.entry import COMMANDS
from nc_strategies.backends.ceiling import Ceiling, cache_name
from nc_strategies.errors import InputError
from nc_strategies.registry import Component
from nc_strategies.runtime import cache

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, command):
    """A folder with a short run in ``out``."""
    folder = tmp_path_factory.mktemp("finished")
    data = np.load(samples.evaluation_images())
    np.savez(folder / "eval.npz", x=data["x"][:200], y=data["y"][:200])
    status, _, err = command(
        "model=onnx",
        f"model.path={samples.onnx_model()}",
        "data=npz",
        "data.path=eval.npz",
        "data.calibration_samples=20",
        "data.preprocess.scale=0.00784313725490196",
        "data.preprocess.offset=-1",
        "tuning.max_trials=2",
        "measure.latency_runs=20",
        "measure.final_runs=20",
        "space.op_type_dict={Gemm: {weight: {dtype: [fp32]}}}",
        "run_dir=out",
        cwd=folder,
    )
    assert status in (0, 3), err
    return folder


def test_a_run_leaves_a_page_with_the_command_that_repeats_it(finished):
    folder = finished / "out"
    assert (folder / "report.html").stat().st_size < 3_000_000
    arguments = json.loads((folder / "analysis.json").read_text())["command"]
    assert arguments[0] == "python -m nc_strategies"
    assert "model=onnx" in arguments
    assert any(argument.startswith("space.op_type_dict=") for argument in arguments)
    assert arguments[-1] == "run_dir=out"


def test_the_list_is_complete_and_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; sys.argv = ['nc-strategies', 'list']\n"
        "from nc_strategies.app.entry import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        "heavy = {'onnxruntime', 'onnx', 'tensorflow', 'sigopt', 'scipy', 'numpy', 'hydra', 'vl_convert'}\n"
        "sys.exit(f'imported: {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    named = {tuple(line.split()[:2]) for line in done.stdout.splitlines()}
    assert {
        ("strategy", "basic"),
        ("backend", "tensorflow"),
        ("metric", "top1"),
        ("model", "onnx"),
        ("data", "npz"),
        ("executor", "serial"),
    } <= named


def test_the_console_script_takes_every_command_for_what_it_is():
    (commands_of_parser,) = [action.choices for action in parser()._actions if isinstance(action.choices, dict)]
    assert tuple(sorted(commands_of_parser)) == COMMANDS


def test_the_list_takes_a_kind_and_refuses_another(tmp_path, command):
    status, out, _ = command("list", "backend", cwd=tmp_path)
    assert status == 0
    assert {line.split()[0] for line in out.splitlines()} == {"backend"}
    status, out, err = command("list", "colour", cwd=tmp_path)
    assert (status, out) == (2, "")
    assert err == (
        "error: list: there is no kind 'colour'; one of strategy, backend, metric, model, data, executor, tracker\n"
    )


def test_what_is_missing_is_read_from_the_package_s_extras(monkeypatch):
    asked = []
    monkeypatch.setattr(
        listing,
        "requires",
        lambda package: (
            asked.append(package)
            or [
                "onnx>=1.17; extra == 'onnxruntime'",
                'nothing-like-it>=1; extra == "onnxruntime"',
                "numpy>=1",
                "nor-this; extra == 'other'",
            ]
        ),
    )
    component = Component("backend", "x", "module:Class", extra="nc-strategies[onnxruntime]")
    assert listing.missing(component) == ["nothing-like-it"]
    assert asked == ["nc-strategies"]
    assert listing.missing(Component("backend", "y", "module:Class")) == []
    assert listing.missing(Component("backend", "z", "module:Class", extra="no-such-package")) == ["no-such-package"]


def test_a_run_is_explained_in_words(finished, command):
    status, out, err = command("explain", "out", cwd=finished)
    assert (status, err) == (0, "")
    assert "Asked for: top1 at least" in out
    assert "held in fp32 by your overrides" in out


def test_a_page_is_made_again(finished, command):
    page = finished / "out" / "report.html"
    page.unlink()
    status, out, err = command("report", "out", cwd=finished)
    assert (status, out, err) == (0, "out/report.html\n", "")
    assert "</html>" in page.read_text()


def test_the_model_is_exported_once_and_replaced_only_when_told(finished, tmp_path, command):
    target = tmp_path / "served" / "model.onnx"
    status, out, err = command("export", finished / "out", "--to", target, "--format", "onnx", cwd=tmp_path)
    assert (status, out, err) == (0, f"{target}\n", "")
    assert target.read_bytes() == (finished / "out" / "model" / "model.onnx").read_bytes()
    ort.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    target.write_text("precious")
    status, _, err = command("export", finished / "out", "--to", target, cwd=tmp_path)
    assert status == 2
    assert err == f"error: --to: {target} exists; another path, or --force to replace it\n"
    assert target.read_text() == "precious"
    assert command("export", finished / "out", "--to", target.parent, "--force", cwd=tmp_path)[0] == 0
    assert target.stat().st_size > 1000
    assert [p.name for p in target.parent.iterdir()] == ["model.onnx"]


def test_a_model_that_does_not_open_is_not_exported(finished, tmp_path, command):
    broken = tmp_path / "run"
    (broken / "model").mkdir(parents=True)
    (broken / "model" / "model.onnx").write_bytes(b"not a model")
    for name in ("result.json", "config.yaml"):
        (broken / name).write_bytes((finished / "out" / name).read_bytes())
    target = tmp_path / "to" / "model.onnx"
    target.parent.mkdir()
    target.write_text("precious")
    status, _, err = command("export", broken, "--to", target, "--force", cwd=tmp_path)
    assert status == 1
    assert "onnxruntime refuses the model" in err
    assert target.read_text() == "precious"
    assert [p.name for p in target.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["explain", "nowhere"], "error: nowhere: does not exist"),
        (["report", "."], "error: .: is not the folder of a run"),
        (["export", "nowhere", "--to", "x"], "error: nowhere: does not exist"),
        (["replay", "nowhere"], "error: nowhere: does not exist"),
        (["explain"], "the following arguments are required: run_dir"),
        (["list", "a", "b"], "unrecognized arguments: b"),
    ],
)
def test_wrong_input_is_said_with_status_two_and_leaves_nothing(tmp_path, arguments, says, command):
    status, out, err = command(*arguments, cwd=tmp_path)
    assert (status, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_another_format_is_refused(finished, tmp_path, command):
    status, _, err = command(
        "export", finished / "out", "--to", tmp_path / "m", "--format", "saved_model", cwd=tmp_path
    )
    assert status == 2
    assert "--format: is saved_model, the model of this run is onnx" in err


@pytest.mark.slow
def test_the_machine_is_told_with_every_backend_that_is_installed(tmp_path, monkeypatch, command):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    status, out, err = command("machine", "--json", cwd=tmp_path)
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["processor"]
    assert found["cores"] >= 1
    assert {"onnxruntime", "tensorflow"} <= set(found["backends"])
    for name in ("onnxruntime", "tensorflow"):
        told = found["backends"][name]
        assert set(told) == {"saturates", "ceiling", "best_ceiling", "unknown"}
        assert isinstance(told["saturates"], bool)
        # On a machine that is busy enough, nothing can be measured within the time; then it says so.
        assert (told["best_ceiling"] is None) == (told["unknown"] is not None) == (told["ceiling"] is None)
    # What other work disturbed is not kept, and the next command measures it again.
    files = list((tmp_path / "cache" / "nc_strategies").glob("ceiling-*"))
    assert len(files) >= 2
    disturbed = {
        name for name in found["backends"] for f in files if f.match(f"ceiling-{name}-*") and not f.read_text()
    }
    status, text, err = command("machine", cwd=tmp_path)
    assert (status, err) == (0, "")
    assert f"processor: {found['processor']}" in text
    for name, told in found["backends"].items():
        if name in disturbed:
            continue
        for kind, forms in (told["ceiling"] or {}).items():
            for form, ratio in forms.items():
                row = re.search(rf"^{name} .* {kind} .* {re.escape(form)} .* ([\d.]+)$", text, re.MULTILINE)
                assert float(row[1]) == pytest.approx(ratio, abs=0.01)
        assert re.search(rf"^{name}: ({re.escape(told['unknown'] or '')}|8-bit products )", text, re.MULTILINE)


def test_a_backend_whose_ceiling_is_unknown_says_why(monkeypatch):
    low = Ceiling({"Conv": {"int8": 1.05}}, True)
    answers = {"onnxruntime": low.to_dict(), "tensorflow": Ceiling().to_dict()}

    def child(module, request, *_):
        if request["backend"] == "dies":
            raise InputError("backend", "measuring int8 ended with status -6 (aborted)")
        return {"ceiling": answers.get(request["backend"])}

    names = ("dies", "lacks", "onnxruntime", "silent", "tensorflow")
    known = SimpleNamespace(
        names=lambda _: names,
        components={
            ("backend", name): Component("backend", name, "m:C", extra="no-such-package" if name == "lacks" else "")
            for name in names
        },
    )
    monkeypatch.setattr(machine, "run_child", child)
    monkeypatch.setattr(machine, "registry", lambda: known)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(machine.render(machine.survey(1)))
    lines = captured.get().splitlines()
    assert "dies: unknown: backend: measuring int8 ended with status -6 (aborted)" in lines
    assert "lacks: needs no-such-package: pip install 'no-such-package'" in lines
    assert f"silent: {machine.UNMEASURED}" in lines
    assert f"tensorflow: {machine.NOTHING}" in lines
    assert any(line.startswith("onnxruntime: 8-bit products saturate, weights get 7 bits.") for line in lines)
    assert any(line.startswith("What helps: size or memory as the objective") for line in lines)


def test_a_wrong_number_of_threads_is_refused(tmp_path, command):
    status, out, err = command("machine", "--threads", "0", cwd=tmp_path)
    assert (status, out, err) == (2, "", "error: --threads: is 0; 1 or more\n")


def test_a_run_where_int8_gains_nothing_says_so_before_its_first_trial(tmp_path, monkeypatch, command):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    low = Ceiling({"Conv": {"uint8 asym, int8 per_channel": 1.02}}, False)
    cache.keep(cache_name("onnxruntime", [ort.__version__], 1), json.dumps(low.to_dict()))
    status, _, err = command(
        "strategy=random",
        "backend=onnxruntime",
        "tuning.max_trials=1",
        "measure.latency_runs=20",
        "measure.final_runs=20",
        "run_dir=out",
        cwd=tmp_path,
    )
    assert status in (0, 3)
    assert (
        "warning: The fastest int8 operator of onnxruntime on this machine, Conv (uint8 asym, int8 per_channel), "
        "runs 1.02 times as fast as in fp32: no int8 model can be much faster than fp32 here." in err
    )
    log = (tmp_path / "out" / "nc_strategies.log").read_text()
    assert 0 < log.index("no int8 model can be much faster than fp32 here") < log.index("trial 1 ")
    found = json.loads((tmp_path / "out" / "result.json").read_text())["machine"]
    assert found["ceiling"] == {"Conv": {"uint8 asym, int8 per_channel": 1.02}}
    status, out, _ = command("explain", "out", cwd=tmp_path)
    assert status == 0
    assert "no int8 model can be much faster than fp32 here" in out


def test_the_help_of_the_run_mentions_the_commands(tmp_path, command):
    status, out, _ = command("--help", cwd=tmp_path)
    assert status == 0
    named = out.partition("Other commands")[2].partition("\n\n")[0]
    assert [name for name in COMMANDS if not re.search(rf"(^ +|\| ){name}\b", named, re.MULTILINE)] == []
    assert re.search(r"^strategy: auto, basic, .*\brandom", out, re.MULTILINE)


def test_a_run_replayed_says_what_holds_then_and_now(finished, command):
    before = {p: p.stat().st_mtime_ns for p in (finished / "out").rglob("*")}
    status, out, err = command("replay", "out", "--json", cwd=finished)
    assert err == ""
    found, result = json.loads(out), json.loads((finished / "out" / "result.json").read_text())
    assert status == (0 if found["holds"] else 3)
    assert found["executed"]["equal"]
    assert found["executed"]["now"] == result["tuned"]["ops"]
    assert found["accuracy"]["now"] == found["accuracy"]["then"] == result["tuned"]["accuracy"]
    assert found["speedup"]["then"] == result["speedup"]
    low, high = found["speedup"]["now_ci95"]
    assert low <= found["speedup"]["now"] <= high
    assert found["holds"] == found["goal"]["met"]
    assert found["versions"] == {}
    assert {p: p.stat().st_mtime_ns for p in (finished / "out").rglob("*")} == before


def copied(finished, tmp_path):
    """The finished run in a folder of its own, beside its data."""
    shutil.copytree(finished / "out", tmp_path / "out")
    shutil.copy(finished / "eval.npz", tmp_path / "eval.npz")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("out/model/model.onnx", "error: out/model/model.onnx: has changed since the run saved it"),
        ("eval.npz", "error: data: has changed since the run (its data_sha256 was "),
    ],
)
def test_a_replay_refuses_what_has_changed(finished, tmp_path, file, says, command):
    copied(finished, tmp_path)
    path = tmp_path / file
    if path.suffix == ".npz":
        with np.load(path) as data:
            np.savez(path, x=data["x"], y=(data["y"] + 1) % 10)
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
    status, out, err = command("replay", "out", cwd=tmp_path)
    assert (status, out) == (2, "")
    assert err.startswith(says)
    assert len(err.splitlines()) == 1


def test_a_replay_of_a_model_without_a_hash_that_does_not_open_is_one_line(finished, tmp_path, command):
    folder = copied(finished, tmp_path)
    result = json.loads((folder / "result.json").read_text())
    del result["hashes"]["saved_sha256"]
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "model" / "model.onnx").write_bytes(b"not a model")
    status, out, err = command("replay", "out", cwd=tmp_path)
    assert (status, out) == (1, "")
    assert "onnxruntime refuses the model" in err
    assert len(err.splitlines()) == 1


def test_a_replay_says_when_other_operators_execute_in_int8(finished, tmp_path, command):
    folder = copied(finished, tmp_path)
    result = json.loads((folder / "result.json").read_text())
    result["tuned"]["ops"]["Conv"]["int8"] += 1
    (folder / "result.json").write_text(json.dumps(result))
    status, out, _ = command("replay", "out", cwd=tmp_path)
    assert status == 3
    assert out.startswith("does not hold: ")
    assert "not the same" in out
