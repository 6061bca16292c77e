"""Metrics of object detectors. Needs pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import EngineError, InputError
from nc_strategies.metrics.base import Array, Metric
from nc_strategies.metrics.settings import CocoMapSettings

FORMATS = ("corners", "xywh")


class CocoMap(Metric):
    """COCO's average precision: the mean over classes and, unless `iou` is set, over IoU 0.50 to 0.95.

    The model's outputs are boxes (N, boxes, 4), scores (N, boxes) and class numbers (N, boxes), padded with boxes of
    score 0. Labels are those of `nc_strategies.data.labels.pack_boxes`, with boxes in the format and unit of the
    model's. Only the area range "all" is evaluated. Source: computed by pycocotools.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(self, settings: CocoMapSettings | None = None) -> None:
        super().__init__(settings or CocoMapSettings())
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        self._coco_class, self._evaluation_class = COCO, COCOeval
        if self.settings.box_format not in FORMATS:
            raise InputError(
                "metrics.accuracy.box_format", f"is {self.settings.box_format!r}", f"allowed: {', '.join(FORMATS)}"
            )
        if self.settings.iou is not None and not 0 < self.settings.iou < 1:
            raise InputError("metrics.accuracy.iou", f"is {self.settings.iou}", "above 0, below 1")
        if self.settings.max_detections < 1:
            raise InputError("metrics.accuracy.max_detections", f"is {self.settings.max_detections}", "at least 1")
        self.positions = (self.settings.boxes, self.settings.scores, self.settings.classes)

    def keep(self, outputs: Sequence[Array]) -> Array:  # type: ignore[override]
        """The boxes with the highest scores per sample, shape (N, max_detections, 6): coordinates, score, class."""
        settings = self.settings
        places = (settings.boxes, settings.scores, settings.classes)
        if max(places) >= len(outputs):
            raise InputError(
                "metrics.accuracy",
                f"the model has {len(outputs)} outputs",
                "the positions of boxes, scores and classes among them, from 0",
            )
        count = len(outputs[places[0]])
        boxes, scores, classes = (
            np.asarray(outputs[place], np.float64).reshape(count, -1, width)
            for place, width in zip(places, (4, 1, 1), strict=True)
        )
        if not boxes.shape[1] == scores.shape[1] == classes.shape[1]:
            shapes = ", ".join(str(outputs[place].shape) for place in places)
            raise InputError(
                "metrics.accuracy",
                f"boxes, scores and classes have shapes {shapes}",
                "(N, boxes, 4), (N, boxes), (N, boxes)",
            )
        detections = np.concatenate([boxes, scores, classes], 2)
        if not np.isfinite(detections).all():
            raise EngineError("the model's output holds NaN or infinity")
        order = np.argsort(-scores[:, :, 0], axis=1, kind="stable")[:, : settings.max_detections]
        best = np.zeros((count, settings.max_detections, 6))
        best[:, : order.shape[1]] = np.take_along_axis(detections, order[:, :, None], 1)
        return best

    def compute(self, outputs: Array, labels: Array) -> float:
        """See `Metric.compute`."""
        evaluation = self._evaluate(outputs, labels)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        return _average(evaluation)

    def resampler(self, outputs: Array, labels: Array) -> Callable[[NDArray[np.int64]], float]:
        """See `Metric.resampler`: boxes are matched once, and only the precision is accumulated again."""
        evaluation = self._evaluate(outputs, labels)
        matches = np.empty(len(evaluation.evalImgs), object)
        matches[:] = evaluation.evalImgs
        by_class = matches.reshape(-1, len(labels))

        def resample(index: NDArray[np.int64]) -> float:
            evaluation.evalImgs = by_class[:, index].reshape(-1).tolist()
            with contextlib.redirect_stdout(io.StringIO()):
                evaluation.accumulate()
            return _average(evaluation)

        return resample

    def _evaluate(self, outputs: Array, labels: Array) -> Any:
        packed = np.asarray(labels)
        if packed.ndim != 3 or packed.shape[2] != 6:
            raise InputError(
                "data", f"labels of shape {packed.shape} are not boxes", "arrays boxes, labels and image_ids in an .npz"
            )
        present = packed[:, :, 4] >= 0
        if not present.any():
            raise InputError("data", "holds no boxes to find")
        classes = sorted({int(c) for c in packed[present][:, 4]})
        truth = self._coco(packed, present, 4, None, classes)
        detections = self._coco(outputs, outputs[:, :, 4] > 0, 5, 4, classes)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = self._evaluation_class(truth, detections, "bbox")
            evaluation.params.imgIds = list(range(len(packed)))
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluation.params.maxDets = [self.settings.max_detections]
            if self.settings.iou is not None:
                evaluation.params.iouThrs = np.array([self.settings.iou])
            evaluation.evaluate()
        return evaluation

    def _coco(
        self, values: Array, present: Array, class_column: int, score_column: int | None, classes: list[int]
    ) -> Any:
        offset = 0 if score_column is None else self.settings.class_offset
        annotations: list[dict[str, Any]] = []
        for image, place in np.argwhere(present).tolist():
            row = values[image, place]
            a, b, c, d = row[:4].tolist()
            width, height = (c, d) if self.settings.box_format == "xywh" else (c - a, d - b)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": int(row[class_column]) + offset,
                "bbox": [a, b, width, height],
                "area": width * height,
                "iscrowd": 0,
            }
            if score_column is None:
                annotation["iscrowd"] = int(row[5])
            else:
                annotation["score"] = float(row[score_column])
            annotations.append(annotation)
        coco = self._coco_class()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(values))],
            "annotations": annotations,
            "categories": [{"id": c} for c in classes],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco


def _average(evaluation: Any) -> float:
    precision = evaluation.eval["precision"]
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else 0.0
