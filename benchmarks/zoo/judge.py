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
    rng = np.random.default_rng(0)

    def run(session: ort.InferenceSession, feed: Arrays) -> Callable[[], object]:
        return lambda: session.run(None, feed)

    sessions.clear()
    lengths: tuple[int | None, ...] = case.lengths or (None,)
    feeds = {length: case.timed(data, length) for length in lengths}
    timings: dict[int | None, list[Timing]] = {length: [] for length in lengths}
    for _ in range(SESSIONS):
        anew = [opened(task["models"][n]) for n in names]
        for length, feed in feeds.items():
            timings[length].append(interleave([run(s, feed) for s in anew], -(-task["runs"] // SESSIONS), rng))
        del anew
    joined = {length: Timing.joined(parts) for length, parts in timings.items()}
    timing = joined[lengths[-1]]
    found = {
        "accuracy": accuracy,
        "latency_ms": {n: timing.median_ms(i) for i, n in enumerate(names)},
        "ratio": ratios(timing, names),
        "ratio_by_length": {str(length): ratios(joined[length], names) for length in case.lengths},
        "refused": refused,
        "runs": timing.runs,
        "onnxruntime": ort.__version__,
    }
    Path(task["output"]).write_text(json.dumps(found, indent=2) + "\n")


def ratios(timing: Timing, names: list[str]) -> dict[str, dict[str, list[float]]]:
    """Latency of each model relative to each other one, with its 95 % interval."""
    return {
        a: {b: [timing.ratio(i, j), *timing.ratio_interval(i, j)] for j, b in enumerate(names) if i != j}
        for i, a in enumerate(names)
    }


if __name__ == "__main__":
    main()
