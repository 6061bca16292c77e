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

from nc_strategies.measure.latency import interleave


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
    one = x[:1]

    def run(index: int) -> Callable[[], object]:
        return lambda: sessions[index].run(None, {inputs[index]: one})

    timing = interleave([run(i) for i in range(len(names))], task["runs"], np.random.default_rng(0))
    found = {"accuracy": {n: float(right[i] / len(y)) for i, n in enumerate(names)},
             "latency_ms": {n: timing.median_ms(i) for i, n in enumerate(names)},
             "ratio": {a: {b: [timing.ratio(i, j), *timing.ratio_interval(i, j)] for j, b in enumerate(names) if i != j}
                       for i, a in enumerate(names)},
             "refused": refused, "runs": timing.runs, "onnxruntime": ort.__version__}
    Path(task["output"]).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
