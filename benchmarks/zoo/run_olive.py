"""Olive: its pass `OnnxQuantization` with its own search over mode, format, calibration and granularity.

The goal is Olive's own `max-degradation` of the metric, latency the second objective. It has no search over operators.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import onnx
from driver import Task
from olive.common.config_utils import CaseInsensitiveEnum, ConfigBase
from olive.data.registry import Registry
from olive.evaluator.metric import Metric, SubMetric
from olive.workflows import run
from pydantic import BaseModel

RESERVE = 0.2
"""Share of the limit that is left for the start, for the candidate under way and for saving."""


class Best:
    """The fastest candidate so far that keeps the goal."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.latency = 1.0
        self.model: str | None = None

    def evaluate(self, handler: Any) -> dict[str, float]:
        """Metric and latency relative to fp32, as Olive's evaluator wants them."""
        path = str(handler.model_path)
        accuracy = self.task.evaluate(path)
        latency = self.task.latency_ratio(path)
        if accuracy >= self.task.threshold and latency < self.latency:
            # Olive's cache is cleared by its next run, and a killed one hands over nothing: the best is kept at once.
            self.latency, self.model = latency, path
            self.task.save(onnx.load(path))
        return {"value": accuracy, "latency": latency}


FOUND: dict[str, Best] = {}
"""What the process that was started has found; Olive imports this file again for the function below."""


def evaluate(handler: Any, device: Any, providers: Any) -> dict[str, float]:
    """What Olive calls for a candidate."""
    started = sys.modules["__main__"]
    found: dict[str, float] = started.FOUND["best"].evaluate(handler)
    return found


class Feeds:
    """Calibration samples, each a run of one sample."""

    def __init__(self, task: Task) -> None:
        self._feeds = list(task.feeds())

    def __len__(self) -> int:
        return len(self._feeds)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], int]:
        if index >= len(self._feeds):
            raise IndexError(index)
        return self._feeds[index], 0


def repair() -> None:
    """Let Olive 0.13 take a custom metric.

    It calls methods of None where it writes one as JSON and where it reads it, and leaves out the settings of the user.
    """

    def as_it_is(self: Any, value: Any) -> Any:
        return value if value is None or isinstance(value, str) else value.model_dump()

    for owner, name in ((Metric, "serialize_backend"), (SubMetric, "serialize_metric_config")):
        # The compiled schema keeps the function object, so that its code is what can be replaced.
        owner.__dict__[name].__code__ = as_it_is.__code__
    by_name = CaseInsensitiveEnum._missing_.__func__

    def known(cls: type, value: Any) -> Any:
        return by_name(cls, value) if isinstance(value, str) else None

    CaseInsensitiveEnum._missing_ = classmethod(known)

    def dumped(self: ConfigBase, **options: Any) -> dict[str, Any]:
        return BaseModel.model_dump(self, **{"serialize_as_any": True, **options})

    ConfigBase.model_dump = dumped


def main() -> None:
    """Search within the limit."""
    begun = time.monotonic()
    repair()
    task = Task.from_command_line()
    FOUND["best"] = Best(task)

    @Registry.register_dataset("zoo_calibration")  # type: ignore[misc]
    def calibration(**_: Any) -> Feeds:
        return Feeds(task)

    folder = task.output.parent
    left = task.limit * (1 - RESERVE) - (time.monotonic() - begun)
    goal = {"type": "max-degradation", "value": task.case.tolerable_loss}
    kinds = [
        {"name": "value", "priority": 1, "higher_is_better": True, "goal": goal},
        {"name": "latency", "priority": 2, "higher_is_better": False},
    ]
    metric = {
        "name": "judged",
        "type": "custom",
        "sub_types": kinds,
        "user_config": {"user_script": __file__, "evaluate_func": "evaluate"},
    }
    system = {
        "type": "LocalSystem",
        "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
    }
    task.event("prepared")
    run(
        {
            "input_model": {"type": "ONNXModel", "model_path": task.model},
            "systems": {"here": system},
            "data_configs": [
                {
                    "name": "calibration",
                    "type": "DataContainer",
                    "load_dataset_config": {"type": "zoo_calibration"},
                    "pre_process_data_config": {"type": "skip_pre_process"},
                    "post_process_data_config": {"type": "skip_post_process"},
                    "dataloader_config": {"type": "no_auto_batch_dataloader"},
                }
            ],
            "evaluators": {"judge": {"metrics": [metric]}},
            "passes": {"quantization": {"type": "OnnxQuantization", "data_config": "calibration"}},
            "search_strategy": {"execution_order": "joint", "sampler": "tpe", "max_time": max(int(left), 1)},
            "evaluator": "judge",
            "host": "here",
            "target": "here",
            "output_dir": str(folder / "output"),
            "cache_dir": str(folder / "cache"),
            "log_severity_level": 2,
        }
    )
    task.event("returned")


if __name__ == "__main__":
    main()
