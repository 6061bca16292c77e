"""The worker's side of `mutations.py`: builds the target of a damaged file and takes it as far as it goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nc_strategies import samples
from nc_strategies.app.target import build
from nc_strategies.config import MeasureConfig, RunConfig
from nc_strategies.space import Space


@dataclass(frozen=True)
class Case:
    """A damaged file.

    Args:
        kind: ``onnx``, ``keras``, ``saved_model`` or ``npz``.
        path: Where it is.
    """

    kind: str
    path: str


class MeasurementTarget:
    """Stands in for a run's target: its calls are `tune` and `make_saved_model`."""

    def __init__(self, _: Any) -> None:
        self._few: Path | None = None

    def until(self, deadline: float, patience: float = 0.0) -> None:
        """See `nc_strategies.measuring.target.MeasurementTarget.until`; a case has no deadline."""

    def tune(self, case: Case) -> None:
        """Load, calibrate, measure fp32 and the default int8 configuration."""
        scale = {"scale": 0.00784313725490196, "offset": -1.0}
        data = case.path if case.kind == "npz" else str(samples.calibration_images())
        engine = "tensorflow" if case.kind in ("keras", "saved_model") else "onnxruntime"
        model = {"name": case.kind, "path": case.path} if case.kind != "npz" else {"name": "sample"}
        config = RunConfig(
            strategy={"name": "basic"},
            backend={"name": engine},
            model=model,
            data={"name": "npz", "path": data, "calibration_samples": 8, "preprocess": scale},
            executor={"name": "serial"},
            measure=MeasureConfig(latency_runs=20, final_runs=20),
        )
        target = build(config)
        space = Space(target.load())
        target.facts()
        target.calibrate()
        if space.quantizable:
            target.baseline(space)
            target.measure(space.default())

    def make_saved_model(self, folder: str) -> None:
        """The sample as a SavedModel."""
        import tensorflow as tf

        model = tf.keras.models.load_model(samples.keras_model())
        model.export(folder, verbose=False)
