"""ONNX Runtime's own `quantize_static` and `quantize_dynamic`, with the pre-processing that its documentation asks for.

usage: python peers.py task.json; the task names ``model``, ``case``, ``data``, ``output`` and ``method``
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from zoo.cases import CASES, Arrays


class Samples(CalibrationDataReader):  # type: ignore[misc]
    """Calibration samples one by one."""

    def __init__(self, feeds: Iterator[Arrays]) -> None:
        self._feeds = feeds

    def get_next(self) -> Arrays | None:
        """The next sample, None at the end."""
        return next(self._feeds, None)


def main() -> None:
    """Quantize once: there is no search."""
    task: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    case = next(c for c in CASES if c.name == task["case"])
    prepared = task["output"] + ".prepared.onnx"
    try:
        quant_pre_process(task["model"], prepared)
    except Exception:  # noqa: BLE001  symbolic shape inference knows few operators; the documentation says to skip it
        quant_pre_process(task["model"], prepared, skip_symbolic_shape=True)
    if task["method"].startswith("dynamic"):
        quantize_dynamic(
            prepared, task["output"], weight_type=QuantType.QInt8, reduce_range=task["method"] == "dynamic7"
        )
        return
    with np.load(task["data"]) as stored:
        data = dict(stored)
    count = len(next(iter(data.values())))
    quantize_static(
        prepared,
        task["output"],
        Samples(case.feed(data, slice(i, i + 1)) for i in range(count)),
        per_channel=True,
        activation_type=QuantType.QUInt8 if task["method"] == "static_u8s8" else QuantType.QInt8,
    )


if __name__ == "__main__":
    main()
