"""With a real server: what it holds after a run, and that nothing it does changes a run."""

import json
import os
import select
import signal
import socket
import socketserver
import threading
import time

import pytest

pytestmark = pytest.mark.slow
PASSWORD = "s3cret-pass-word"
PATIENT = "tracker.timeout=60"


def with_password(server):
    return server.uri.replace("://", f"://someone:{PASSWORD}@")


def test_the_server_holds_a_run_its_trials_and_its_model(server, tool):
    code, text = tool.run(
        "strategy=random",
        "backend=onnxruntime",
        "backend.recovery=none",
        "data.calibration_samples=50",
        "tuning.max_trials=3",
        "run_dir=out",
        "measure.latency_runs=20",
        "measure.final_runs=20",
        "tracker=mlflow",
        PATIENT,
        "tracker.experiment=sample",
        toy=False,
        MLFLOW_TRACKING_URI=with_password(server),
    )
    assert code in (0, 3), text
    result = tool.result("out")
    (run,), children = server.runs("sample")
    assert run["status"] == "FINISHED"
    assert run["name"] == "fashion_cnn random onnxruntime"
    assert (run["params"]["tuning.max_trials"], run["params"]["strategy.name"]) == ("3", "random")
    assert run["metrics"]["tuned.accuracy"] == pytest.approx(result["tuned"]["accuracy"])
    assert run["tags"]["status"] == result["status"]
    trials = tool.trials("out")
    assert [int(child["tags"]["trial"]) for child in children] == [1, 2, 3]
    for child, trial in zip(children, trials, strict=True):
        assert child["tags"]["state"] == trial["state"]
        assert child["tags"]["mlflow.parentRunId"] == run["id"]
        assert child["metrics"]["accuracy"] == pytest.approx(trial["evaluation"]["metrics"]["accuracy"])
        assert {"latency_ms", "cost"} <= set(child["metrics"])
    question = f"mlflow/metrics/get-history?run_id={run['id']}&metric_key=cost&max_results=100"
    history = json.loads(server.ask(question))["metrics"]
    assert [point.get("step") for point in history] == [1, 2, 3]
    for path in ("result.json", result["model_path"]):
        assert server.file(run, path) == (tool.here / "out" / path).read_bytes()
    assert "mlflow" not in text.lower(), "MLflow talks on the terminal"
    assert PASSWORD not in text
    assert tool.holds(PASSWORD) == []
    assert PASSWORD.encode() not in (server.folder / "mlflow.db").read_bytes()


def test_a_resumed_run_goes_on_in_the_same_run(server, tool):
    # The server's database is used as a local store here: no server in between.
    arguments = [
        "run_dir=out",
        "tracker=mlflow",
        f"tracker.uri={server.store}",
        "tracker.experiment=resumed",
        "tracker.run_name=mine",
        PATIENT,
    ]
    for trials in (2, 4):
        code, text = tool.run(*arguments, f"tuning.max_trials={trials}")
        assert code == 0, text
        assert "tracker" not in text
    (run,), children = server.runs("resumed")
    assert (run["name"], run["status"]) == ("mine", "FINISHED")
    assert [int(child["tags"]["trial"]) for child in children] == [1, 2, 3, 4]
    assert run["metrics"]["trials.total"] == 4


class Way(socketserver.ThreadingTCPServer):
    """A port that leads to a server."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port, server):
        self.target = server.port
        super().__init__(("127.0.0.1", port), Passage)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *error):
        self.shutdown()
        super().__exit__(*error)


class Passage(socketserver.BaseRequestHandler):
    """Passes a connection's bytes on, both ways."""

    def handle(self):
        with socket.create_connection(("127.0.0.1", self.server.target)) as far:
            ways = {self.request: far, far: self.request}
            while True:
                for source in select.select(list(ways), [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    ways[source].sendall(data)


def test_a_server_that_was_out_of_reach_for_a_while_gets_everything(server, tool):
    tool.hold("out", 3)
    with socket.create_server(("127.0.0.1", 0)) as dead:
        port = dead.getsockname()[1]
        process = tool.start(
            "run_dir=out",
            "tuning.max_trials=6",
            "tracker=mlflow",
            "tracker.experiment=back",
            PATIENT,
            f"tracker.uri=http://127.0.0.1:{port}",
        )
        dead.settimeout(600)
        dead.accept()[0].close()
    with Way(port, server):
        tool.release()
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    (run,), children = server.runs("back")
    assert run["status"] == "FINISHED"
    assert [int(child["tags"]["trial"]) for child in children] == list(range(1, 7))
    assert len(err.splitlines()) == 1, "told once"


@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGKILL], ids=["hangs", "killed"])
def test_a_server_that_is_gone_in_mid_run_changes_nothing(server, tool, fault):
    alone, _ = tool.run("run_dir=alone", "tuning.max_trials=8")
    tool.hold("out", 4)
    process = tool.start(
        "run_dir=out",
        "tuning.max_trials=8",
        "tracker=mlflow",
        "tracker.experiment=gone",
        "tracker.timeout=2",
        "tracker.run_name=" + fault.name,
        MLFLOW_TRACKING_URI=with_password(server),
    )
    end = time.monotonic() + 300
    while len(tool.trials("out")) < 4:
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(server.process.pid, fault)
    tool.release()
    out, err = process.communicate(timeout=300)
    finished = time.time()
    waited = finished - (tool.here / "out" / "result.json").stat().st_mtime
    if fault is signal.SIGKILL:
        server.kill()
    else:
        os.killpg(server.process.pid, signal.SIGCONT)
    assert (process.returncode, alone) == (0, 0), err
    assert [t["fingerprint"] for t in tool.trials("out")] == [t["fingerprint"] for t in tool.trials("alone")]
    with_tracker, without = tool.result("out"), tool.result("alone")
    assert with_tracker["tuned"]["config"] == without["tuned"]["config"]
    assert with_tracker["tuned"]["accuracy"] == without["tuned"]["accuracy"]
    assert with_tracker["status"] == without["status"] == "met"
    assert err.count("tracker=mlflow fails") == 1
    assert waited < 60, "2 seconds for the request under way, 2 for the last attempt, and the process's end"
    assert PASSWORD not in out + err
    assert tool.holds(PASSWORD) == []
