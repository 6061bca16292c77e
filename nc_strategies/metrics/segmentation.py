"""Metrics of segmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import EngineError, InputError
from nc_strategies.metrics.base import Array, Metric
from nc_strategies.metrics.chance import Constant, no_better
from nc_strategies.metrics.settings import MeanIoUSettings


class MeanIoU(Metric):
    """Mean over classes of the intersection over union, counted over the pixels of all samples.

    Outputs are class scores, shape (N, H, W, classes) or (N, classes, H, W), or class numbers, shape (N, H, W). Labels
    are class numbers, shape (N, H, W). A class that occurs neither in labels nor in outputs does not count. Of the
    outputs, only the class per pixel is held in memory.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(self, settings: MeanIoUSettings) -> None:
        super().__init__(settings)
        if settings.num_classes < 2:
            raise InputError("metrics.accuracy.num_classes", f"is {settings.num_classes}", "at least 2")
        self._dtype = np.uint8 if settings.num_classes <= 256 else np.int32

    def keep(self, outputs: Sequence[Array]) -> Array:  # type: ignore[override]
        """Class number of each pixel, shape (N, H, W)."""
        scores, classes = outputs[0], self.settings.num_classes
        if scores.dtype.kind == "f" and not np.isfinite(scores).all():
            raise EngineError("the model's output holds NaN or infinity")
        if scores.ndim == 4:
            axis = self.settings.axis
            if axis is None:
                axis = -1 if scores.shape[-1] in (classes, 1) else 1
            if scores.shape[axis] == 1:
                plane = scores.take(0, axis)
                scores = plane > 0.5 if plane.dtype.kind == "f" and classes == 2 else plane
            elif scores.shape[axis] == classes:
                scores = scores.argmax(axis)
            else:
                raise InputError(
                    "metrics.accuracy.num_classes",
                    f"is {classes}, the output has shape {scores.shape}",
                    "the classes are its last axis, or its second",
                )
        if scores.ndim != 3:
            raise InputError(
                "metrics.accuracy.name",
                f"is mean_iou, the output has shape {scores.shape}",
                "(N, H, W, classes), (N, classes, H, W) or (N, H, W)",
            )
        if scores.size and (scores.min() < 0 or scores.max() >= classes):
            raise EngineError(f"the model's output holds classes up to {scores.max()}, of {classes}")
        return scores.astype(self._dtype)

    def fits(self, output: Array, labels: Array) -> bool:
        """See `Metric.fits`: the output gives a class for each pixel of the labels."""
        try:
            kept = self.keep([output])
        except (InputError, EngineError):
            return False
        masks = tuple(length for length in np.shape(labels)[1:] if length != 1)
        return masks == tuple(length for length in kept.shape[1:] if length != 1)

    def no_better(self, outputs: Array, labels: Array) -> str:
        """See `Metric.no_better`: the most frequent class for all pixels.

        Its intersection over union is its share of the pixels, and that of all other classes 0.
        """
        intersection, predicted, truth = self._counts(outputs, labels).sum(0)
        occurring = int((truth > 0).sum())
        if occurring < 2:
            return ""
        best = int(truth.argmax())
        constant = Constant(float(truth[best] / truth.sum() / occurring), f"class {best} for all pixels")
        return no_better(_mean(np.stack([intersection, predicted, truth])), True, constant)

    def compute(self, outputs: Array, labels: Array) -> float:
        """See `Metric.compute`."""
        return _mean(self._counts(outputs, labels).sum(0))

    def resampler(self, outputs: Array, labels: Array) -> Callable[[NDArray[np.int64]], float]:
        """See `Metric.resampler`: pixels are counted once."""
        counts = self._counts(outputs, labels)
        return lambda index: _mean(counts[index].sum(0))

    def _counts(self, outputs: Array, labels: Array) -> NDArray[np.int64]:
        """Number of pixels per class in the intersection, the outputs and the labels; shape (N, 3, classes)."""
        masks, classes = np.asarray(labels), self.settings.num_classes
        if masks.ndim == 4 and 1 in (masks.shape[1], masks.shape[-1]):
            masks = masks.reshape(outputs.shape) if masks.size == outputs.size else masks
        if masks.shape != outputs.shape:
            raise InputError(
                "data",
                f"labels of shape {np.shape(labels)} do not fit outputs of shape {outputs.shape}",
                "one class number per pixel",
            )
        counts = np.zeros((len(outputs), 3, classes), np.int64)
        for place, (output, mask) in enumerate(zip(outputs, masks, strict=True)):
            counted = np.ones(mask.shape, bool) if self.settings.ignore is None else mask != self.settings.ignore
            predicted, truth = output[counted].astype(np.int64), mask[counted].astype(np.int64)
            if truth.size and (truth.min() < 0 or truth.max() >= classes):
                raise InputError(
                    "data",
                    f"labels run from {truth.min()} to {truth.max()}",
                    f"0 to {classes - 1}; metrics.accuracy.ignore names one that does not count",
                )
            for row, values in enumerate((predicted[predicted == truth], predicted, truth)):
                counts[place, row] = np.bincount(values, minlength=classes)
        return counts


def _mean(counts: NDArray[np.int64]) -> float:
    intersection, predicted, truth = counts
    union = predicted + truth - intersection
    occurs = union > 0
    return float((intersection[occurs] / union[occurs]).mean()) if occurs.any() else 0.0
