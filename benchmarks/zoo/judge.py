"""The common judge: the metric of all models of a case, and their latency side by side, in one process.

usage: python judge.py task.json; the task names ``case``, ``models`` (name: file, ``fp32`` among them), ``evaluation``,
``runs`` and ``output``
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nc_strategies.measuring.latency import Timing, interleave
from zoo import metrics
from zoo.cases import CASES, Arrays

SESSIONS = 6
"""Times that each model is opened anew: latency varies by a few percent between sessions of the same graph."""


def main() -> None:
    """Judge with one thread and the engine's defaults; latency is that of one sample."""
    task = json.loads(Path(sys.argv[1]).read_text())
    case = next(c for c in CASES if c.name == task["case"])
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3

    def opened(path: str) -> ort.InferenceSession:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    with np.load(task["evaluation"]) as stored:
        data = dict(stored)
    sessions, refused = {}, {}
    for name, path in task["models"].items():
        try:
            sessions[name] = opened(path)
        except Exception as error:  # noqa: BLE001  the engine raises a class of its own for every status code
            refused[name] = str(error).splitlines()[0][:300]
    names, metric, accuracy = list(sessions), getattr(metrics, case.metric), {}
    for name, session in sessions.items():
        parts = [
            session.run([case.output] if case.output else None, case.feed(data, slice(i, i + case.batch)))[0]
            for i in range(0, len(data["y"]), case.batch)
        ]
        accuracy[name] = metric(np.concatenate(parts), data["y"])
    one, rng, timings = case.feed(data, slice(0, 1)), np.random.default_rng(0), []

    def run(session: ort.InferenceSession, feed: Arrays) -> Callable[[], object]:
        return lambda: session.run(None, feed)

    sessions.clear()
    for _ in range(SESSIONS):
        anew = [opened(task["models"][n]) for n in names]
        timings.append(interleave([run(s, one) for s in anew], -(-task["runs"] // SESSIONS), rng))
        del anew
    timing = Timing.joined(timings)
    found = {
        "accuracy": accuracy,
        "latency_ms": {n: timing.median_ms(i) for i, n in enumerate(names)},
        "ratio": {
            a: {b: [timing.ratio(i, j), *timing.ratio_interval(i, j)] for j, b in enumerate(names) if i != j}
            for i, a in enumerate(names)
        },
        "refused": refused,
        "runs": timing.runs,
        "onnxruntime": ort.__version__,
    }
    Path(task["output"]).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
