"""The command line: killed and resumed, and the token nowhere to be found. Processes of their own."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from driving import assert_whole
from watching import Watch

TOKEN = "secret-token-123456"
TOY = [{"name": f"op{i}", "loss": 0.004 * i, "time_us": 300.0, "int8_time_us": 80.0} for i in range(8)]
PLUGIN = """
from dataclasses import dataclass
from pathlib import Path
from nc_strategies.api import (Component, ModelSource, hookimpl)
from nc_strategies.testing.toy import (ToyBackend, ToySettings)

@dataclass
class Model:
    name: str = "toy"
    path: str = "m.toy"

class Load:
    def __init__(self, settings):
        self.settings = settings
    def load(self):
        return ModelSource("m", {"toy": Path(self.settings.path)})

@hookimpl
def ncs_components():
    return [Component("backend", "toy", "nc_strategies.testing.toy:ToyBackend", ToySettings),
            Component("model", "toy", "ncs_toyplugin:Load", Model)]

@hookimpl
def ncs_config_paths():
    return ["pkg://ncs_toyplugin.conf"]
"""


@pytest.fixture
def toy(tmp_path):
    """A folder with a toy model and its data, and an environment with the plugin that tunes it."""
    site, here = tmp_path / "site", tmp_path / "here"
    package, info = site / "ncs_toyplugin", site / "ncs_toyplugin-0.dist-info"
    for kind in ("backend", "model"):
        (package / "conf" / kind).mkdir(parents=True)
        (package / "conf" / kind / "toy.yaml").write_text(f"defaults:\n  - /schema/{kind}/toy@_here_\n  - _self_\n")
    (package / "__init__.py").write_text(PLUGIN)
    (package / "conf" / "__init__.py").write_text("")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ncs-toyplugin\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[nc_strategies]\ntoyplugin = ncs_toyplugin\n")
    here.mkdir()
    (here / "m.toy").write_text(json.dumps(TOY))
    x = np.random.default_rng(0).integers(2, size=400) + np.random.default_rng(1).random(400)
    np.savez(here / "d.npz", x=x, y=x.astype(int))
    return here, {**os.environ, "PYTHONPATH": str(site)}


ARGUMENTS = [
    "backend=toy",
    "backend.simulated=true",
    "model=toy",
    "data=npz",
    "data.path=d.npz",
    "tuning.tolerable_loss=0.05",
    "measure.latency_runs=20",
    "measure.final_runs=20",
    "run_dir=out",
    "tuning.max_trials=14",
    "strategy=sigopt",
]


def start(toy, *arguments, **environment):
    here, base = toy
    return subprocess.Popen(
        [sys.executable, "-m", "nc_strategies", *ARGUMENTS, *arguments],
        cwd=here,
        text=True,
        env={**base, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out + err


def files(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def on_server(server):
    return {"SIGOPT_API_TOKEN": TOKEN, "SIGOPT_API_URL": server.url}


def test_without_a_token_it_runs_in_this_process(toy):
    code, text = finish(start(toy))
    assert code == 0, text
    result = json.loads((toy[0] / "out" / "result.json").read_text())
    assert (result["status"], result["engine"], result["trials"]["total"]) == ("met", "local", 14)


def test_with_a_token_it_runs_on_the_server_and_shows_the_token_nowhere(toy, server):
    project = "strategy.sigopt_project_id=nc-demo"
    process = start(toy, project, **on_server(server))
    with Watch(TOKEN, process.pid) as watch:
        code, text = finish(process)
    assert code == 0, text
    assert (watch.found, watch.looks > 10) == (set(), True)
    assert json.loads((toy[0] / "out" / "result.json").read_text())["engine"] == "http"
    assert_whole(server)
    assert {p.status for p in server.requests if p.body or p.method == "GET"} == {200}
    _, shown = finish(start(toy, project, "--cfg", "job", "--resolve", **on_server(server)))
    assert "sigopt_project_id: nc-demo" in shown
    assert TOKEN not in text + shown
    assert not [p for p, data in files(toy[0]).items() if TOKEN.encode() in data]


def test_a_crash_shows_no_token(toy, server):
    package = next((toy[0].parent / "site").glob("ncs_toyplugin"))
    with (package / "__init__.py").open("a") as stream:
        stream.write(
            "\nimport nc_strategies_sigopt.form as form\n"
            "def broken(problem, trial):\n    raise RuntimeError('a crash')\nform.outcome = broken\n"
        )
    code, text = finish(start(toy, "strategy.sigopt_project_id=nc-demo", **on_server(server)))
    assert code == 1
    assert "a crash" in text
    assert TOKEN not in text
    assert not [p for p, data in files(toy[0]).items() if TOKEN.encode() in data]


def test_a_token_on_the_command_line_is_refused_with_the_reason(toy):
    code, text = finish(start(toy, f"strategy.sigopt_api_token={TOKEN}"))
    assert code == 2
    assert "sigopt_api_token" in text
    assert "refused" in text
    assert "SIGOPT_API_TOKEN" in text
    assert TOKEN not in text
    assert not (toy[0] / "out").exists()


@pytest.mark.parametrize(
    ("token", "project", "says"),
    [
        ("", "nc-demo", "sigopt_api_token: is missing"),
        ("wrong-token-777", "nc-demo", "sigopt_api_token: is rejected"),
        (TOKEN, "nope", "sigopt_project_id: 'nope' is not a project"),
    ],
)
def test_a_server_that_does_not_let_us_in_ends_the_run_with_status_2(toy, server, token, project, says):
    code, text = finish(
        start(
            toy,
            "strategy.driver=http",
            f"strategy.sigopt_project_id={project}",
            **{**on_server(server), "SIGOPT_API_TOKEN": token},
        )
    )
    assert code == 2, text
    assert says in text
    assert len(text.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "moment", [("POST", r"/suggestions$", 3), ("POST", r"/observations$", 5)], ids=["suggestion", "observation"]
)
def test_a_killed_run_goes_on_in_its_experiment_and_reports_each_trial_once(toy, server, moment):
    server.hold(*moment)
    process = start(toy, "strategy.sigopt_project_id=nc-demo", **on_server(server))
    assert server.held.wait(120)
    process.send_signal(signal.SIGKILL)
    finish(process)
    server.release()
    done = len((toy[0] / "out" / "trials.jsonl").read_text().splitlines())
    assert 0 < done < 14
    code, text = finish(start(toy, "strategy.sigopt_project_id=nc-demo", **on_server(server)))
    assert code == 0, text
    result = json.loads((toy[0] / "out" / "result.json").read_text())
    assert (result["trials"]["total"], result["engine"]) == (14, "http")
    assert result["trials"]["resumed"] >= done - 1
    numbers = [json.loads(line)["number"] for line in (toy[0] / "out" / "trials.jsonl").read_text().splitlines()]
    assert numbers == list(range(1, 15))
    assert_whole(server)
    assert not [s for s in server.suggestions.values() if s["state"] == "open"]


def test_a_server_that_stays_down_is_seen_on_the_terminal_in_the_table_on_the_page_and_in_explain(toy, server):
    for method, after in (("POST", 3), ("GET", 0)):
        server.fail(
            "503", method, "/suggestions$" if method == "POST" else "/v1/", after=after if method == "POST" else 8
        )
    arguments = ("strategy.driver=http", "strategy.sigopt_project_id=nc-demo", "strategy.request_patience=0")
    code, text = finish(start(toy, *arguments, "strategy.request_attempts=2", **on_server(server)))
    assert code == 0, text
    print(text)  # noqa: T201 - what a user sees, for whoever runs this test with -s
    folder = toy[0] / "out"
    assert "warning: the SigOpt server fails" in text
    assert "goes back to it" in text
    assert "sigopt (local)" in text
    done = json.loads((folder / "result.json").read_text())
    assert (done["engine"], len(done["notices"])) == ("local", 1)
    here, base = toy
    explained = subprocess.run(
        [sys.executable, "-m", "nc_strategies", "explain", "out"],
        cwd=here,
        env={**base, "COLUMNS": "400"},
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    print(explained)  # noqa: T201
    for said in (explained, (folder / "report.html").read_text()):
        assert "Engine local of strategy sigopt" in said
        assert "The SigOpt server fails" in said
        assert "tuning.max_trials" in said
