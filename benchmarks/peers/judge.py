"""The common judge: accuracy of all models of a case, and their latency side by side, in one process of this project.

usage: python judge.py task.json; the task names ``models`` (name: file, ``fp32`` among them), ``evaluation``,
``batch_size``, ``runs``, ``output``
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from nc_strategies.measuring.latency import Timing, interleave

SESSIONS = 12
"""Times that each model is opened anew: two sessions of one model may differ by some per cent for life."""


def main() -> None:
    """Evaluate with the engine's defaults and one thread, batch by batch in turn; then time at batch size 1."""
    task = json.loads(Path(sys.argv[1]).read_text())
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    opened, refused = {}, {}
    for name, path in task["models"].items():
        try:
            opened[name] = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001  the engine raises a class of its own for every status code
            refused[name] = str(error).splitlines()[0][:300]
    names, sessions = list(opened), list(opened.values())
    inputs = [s.get_inputs()[0].name for s in sessions]
    with np.load(task["evaluation"]) as data:
        x, y = data["x"], data["y"]
    right = np.zeros(len(names), int)
    for begin in range(0, len(x), task["batch_size"]):
        part = slice(begin, begin + task["batch_size"])
        for index, session in enumerate(sessions):
            right[index] += int((session.run(None, {inputs[index]: x[part]})[0].argmax(-1) == y[part]).sum())
    one, rng, timings = x[:1], np.random.default_rng(0), []

    def run(session: ort.InferenceSession, name: str) -> Callable[[], object]:
        return lambda: session.run(None, {name: one})

    sessions.clear()
    opened.clear()
    for _ in range(SESSIONS):
        anew = [ort.InferenceSession(task["models"][n], options, providers=["CPUExecutionProvider"]) for n in names]
        timings.append(
            interleave([run(s, i) for s, i in zip(anew, inputs, strict=True)], -(-task["runs"] // SESSIONS), rng)
        )
        del anew
    timing = Timing.joined(timings)
    found = {
        "accuracy": {n: float(right[i] / len(y)) for i, n in enumerate(names)},
        "latency_ms": {n: timing.median_ms(i) for i, n in enumerate(names)},
        "ratio": {
            a: {b: [timing.ratio(i, j), *timing.ratio_interval(i, j)] for j, b in enumerate(names) if i != j}
            for i, a in enumerate(names)
        },
        "refused": refused,
        "runs": timing.runs,
        "sessions": SESSIONS,
        "onnxruntime": ort.__version__,
    }
    Path(task["output"]).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
