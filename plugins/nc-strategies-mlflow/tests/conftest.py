"""A real MLflow server, and a toy problem for the command line."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

TOY = [{"name": f"op{i}", "loss": 0.004 * i, "time_us": 300.0, "int8_time_us": 60.0 + 20 * i} for i in range(8)]
PLUGIN = '''
from dataclasses import dataclass
from pathlib import Path
from nc_strategies.api import (Component, ModelSource, hookimpl)
from nc_strategies.testing.toy import (ToyBackend, ToySettings)
import time

class Held(ToyBackend):
    """Builds no more models while the file ``hold`` names a journal, once that has as many lines as it says."""

    def build(self, config):
        while self._held():
            time.sleep(0.01)
        return super().build(config)

    @staticmethod
    def _held():
        try:
            journal, lines = Path("hold").read_text().split()
            return Path(journal).read_text().count("\\n") >= int(lines)
        except FileNotFoundError:
            return False

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
    return [Component("backend", "toy", "ncs_toyplugin:Held", ToySettings),
            Component("model", "toy", "ncs_toyplugin:Load", Model)]

@hookimpl
def ncs_config_paths():
    return ["pkg://ncs_toyplugin.conf"]
'''
ARGUMENTS = [
    "strategy=random",
    "backend=toy",
    "backend.simulated=true",
    "model=toy",
    "data=npz",
    "data.path=d.npz",
    "tuning.tolerable_loss=0.2",
    "metrics=accuracy_size",
    "measure.latency_runs=20",
    "measure.final_runs=20",
    "tuning.early_stop=false",
    "tuning.trial_timeout=600",
]


def clean_environment(**more):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return {**kept, "MLFLOW_DISABLE_TELEMETRY": "true", **more}


class Server:
    """``mlflow server`` with one worker on an SQLite file."""

    def __init__(self, folder: Path):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.store = f"sqlite:///{folder / 'mlflow.db'}"
        self.process = None

    def start(self):
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--backend-store-uri",
            self.store,
            "--artifacts-destination",
            str(self.folder / "artifacts"),
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "1",
        ]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment(),
                start_new_session=True,
            )
        end = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                    assert answer.read() == b"OK"
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError((self.folder / "server.log").read_text()[-2000:]) from None
                time.sleep(0.1)

    def kill(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def ask(self, path, **body):
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(f"{self.uri}/api/2.0/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def runs(self, experiment):
        """The experiment's runs: those of the tool, and those of their trials by number."""
        found = json.loads(self.ask(f"mlflow/experiments/get-by-name?experiment_name={quote(experiment)}"))
        runs = json.loads(
            self.ask("mlflow/runs/search", max_results=1000, experiment_ids=[found["experiment"]["experiment_id"]])
        ).get("runs", [])
        flat = [
            {
                "id": run["info"]["run_id"],
                "status": run["info"]["status"],
                "name": run["info"].get("run_name"),
                "where": run["info"]["artifact_uri"],
                **{
                    part: {pair["key"]: pair["value"] for pair in run["data"].get(part, [])}
                    for part in ("params", "metrics", "tags")
                },
            }
            for run in runs
        ]
        children = sorted(
            (run for run in flat if "mlflow.parentRunId" in run["tags"]), key=lambda run: int(run["tags"]["trial"])
        )
        return [run for run in flat if run not in children], children

    def file(self, run, path):
        place = run["where"].removeprefix("mlflow-artifacts:").lstrip("/")
        return self.ask(f"mlflow-artifacts/artifacts/{place}/{path}")


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory):
    try:
        metadata.version("mlflow")
    except metadata.PackageNotFoundError:
        pytest.skip("the server is not installed: pip install mlflow")
    return Server(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="session")
def one_server(server_folder):
    yield server_folder
    server_folder.kill()


@pytest.fixture
def server(one_server):
    """A server that runs; started again when a test has killed it."""
    if one_server.process is None:
        one_server.start()
    return one_server


class Tool:
    """The command line on a toy problem."""

    def __init__(self, folder: Path):
        site, self.here = folder / "site", folder / "here"
        package, info = site / "ncs_toyplugin", site / "ncs_toyplugin-0.dist-info"
        for kind in ("backend", "model"):
            (package / "conf" / kind).mkdir(parents=True)
            (package / "conf" / kind / "toy.yaml").write_text(f"defaults:\n  - /schema/{kind}/toy@_here_\n  - _self_\n")
        (package / "__init__.py").write_text(PLUGIN)
        (package / "conf" / "__init__.py").write_text("")
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ncs-toyplugin\nVersion: 0\n")
        (info / "entry_points.txt").write_text("[nc_strategies]\ntoyplugin = ncs_toyplugin\n")
        self.here.mkdir()
        (self.here / "m.toy").write_text(json.dumps(TOY))
        x = np.random.default_rng(0).integers(2, size=400) + np.random.default_rng(1).random(400)
        np.savez(self.here / "d.npz", x=x, y=x.astype(int))
        self.site = site

    def start(self, *arguments, toy=True, **environment):
        paths = os.pathsep.join([str(self.site), os.environ.get("PYTHONPATH", "")])
        return subprocess.Popen(
            [sys.executable, "-m", "nc_strategies", *(ARGUMENTS if toy else []), *arguments],
            cwd=self.here,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(PYTHONPATH=paths, **environment),
        )

    def run(self, *arguments, **kwargs):
        process = self.start(*arguments, **kwargs)
        out, err = process.communicate(timeout=600)
        return process.returncode, out + err

    def hold(self, run_dir, trials):
        """Have a run wait, for less than `tuning.trial_timeout`, once it has so many trials."""
        (self.here / "hold").write_text(f"{run_dir}/trials.jsonl {trials}")

    def release(self):
        """Have it go on."""
        (self.here / "hold").unlink()

    def trials(self, run_dir):
        path = self.here / run_dir / "trials.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def result(self, run_dir):
        return json.loads((self.here / run_dir / "result.json").read_text())

    def holds(self, secret):
        """Files in which a text stands."""
        return [p for p in self.here.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]


@pytest.fixture
def tool(tmp_path):
    return Tool(tmp_path)
