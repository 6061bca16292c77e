"""The common judge: the metric of all models of a case, and their latency side by side, in one process.

usage: python judge.py task.json; the task names ``case``, ``models`` (name: file, ``fp32`` among them), ``data``
(folder), ``runs`` and ``output``
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
from zoo.cases import Arrays, case_of
from zoo.driver import Judge, loaded, opened

SESSIONS = 6
"""Times that each model is opened anew: latency varies by a few percent between sessions of the same graph."""


def main() -> None:
    """Judge with one thread and the engine's defaults; latency is that of one sample."""
    task = json.loads(Path(sys.argv[1]).read_text())
    case = case_of(task["case"])
    data = loaded(Path(task["data"]) / "eval.npz")
    judge = Judge(case, data, task["models"]["fp32"])
    accuracy, refused, sizes = {}, {}, {}
    for name, path in task["models"].items():
        try:
            accuracy[name] = judge.value(path)
        except Exception as error:  # noqa: BLE001  the engine raises a class of its own for every status code
            refused[name] = str(error).splitlines()[0][:300]
            continue
        sizes[name] = Path(path).stat().st_size
    names, rng = list(accuracy), np.random.default_rng(0)

    def run(session: ort.InferenceSession, feed: Arrays) -> Callable[[], object]:
        return lambda: session.run(None, feed)

    lengths: tuple[int | None, ...] = case.lengths or (None,)
    feeds = {length: case.timed(data, length) for length in lengths}
    timings: dict[int | None, list[Timing]] = {length: [] for length in lengths}
    for _ in range(SESSIONS):
        anew = [opened(task["models"][n]) for n in names]
        for length, feed in feeds.items():
            timings[length].append(interleave([run(s, feed) for s in anew], -(-task["runs"] // SESSIONS), rng))
        del anew
    joined = {length: Timing.joined(parts) for length, parts in timings.items()}
    found = {
        "accuracy": accuracy,
        "sizes": sizes,
        "latency_ms": {n: joined[lengths[-1]].median_ms(i) for i, n in enumerate(names)},
        "ratio": {str(length or "all"): ratios(joined[length], names) for length in lengths},
        "refused": refused,
        "runs": joined[lengths[-1]].runs,
        "sessions": SESSIONS,
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
