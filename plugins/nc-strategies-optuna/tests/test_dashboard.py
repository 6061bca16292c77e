"""The real optuna-dashboard on a run's storage."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from nc_strategies_optuna import Nsga2Settings
from optuna_runs import Run

SECONDS = 60


@pytest.fixture
def dashboard(tmp_path):
    """A run, and the address of a dashboard on its storage."""
    pytest.importorskip("optuna_dashboard")
    run = Run(tmp_path, Nsga2Settings(), failing=(3,))
    run.go()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from optuna_dashboard._cli import main; main()"
    arguments = [
        f"sqlite:///{tmp_path / 'optuna.db'}",
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
        "--server",
        "wsgiref",
    ]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield run, f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def get(url):
    end = time.monotonic() + SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def test_optuna_dashboard_serves_the_study_of_a_run(dashboard):
    run, address = dashboard
    (summary,) = get(f"{address}/api/studies")["study_summaries"]
    assert summary["study_name"] == "toy-nsga2"
    shown = get(f"{address}/api/studies/{summary['study_id']}")
    assert [t["state"] for t in shown["trials"]] == [t.state.name.title() for t in run.study().trials]
    assert {t["state"] for t in shown["trials"]} == {"Complete", "Fail"}
    assert shown["objective_names"] == ["accuracy loss", "cost"]
