"""Settings of the metrics. Only light modules are imported here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TopKSettings:
    """Settings of `TopK`.

    Args:
        name: The metric's name.
        k: Number of highest outputs that count.
        threshold: Value of a single output above which a sample is of class 1 of two; None for 0.5 of a probability,
            and 0 if one of fp32's outputs is no probability but a logit, below 0 or above 1.
        higher_is_better: Overrides the metric's direction.
    """

    name: str = "topk"
    k: int = 5
    threshold: float | None = None
    higher_is_better: bool | None = None


@dataclass
class Top1Settings:
    """Settings of `Top1`; see `TopKSettings`."""

    name: str = "top1"
    threshold: float | None = None
    higher_is_better: bool | None = None


@dataclass
class PlainSettings:
    """Settings of a metric without parameters."""

    name: str = "top1"
    higher_is_better: bool | None = None


@dataclass
class SklearnSettings:
    """Settings of `ClassificationScore`.

    Args:
        name: ``f1``, ``precision`` or ``recall``.
        average: Averaging over classes, as scikit-learn names it.
        threshold: Output above which a class counts as predicted, any number per sample; None for the class with the
            highest output. A single output is cut at 0.5, and at 0 if one of fp32's outputs is below 0 or above 1.
        higher_is_better: Overrides the metric's direction.
    """

    name: str = "f1"
    average: str = "macro"
    threshold: float | None = None
    higher_is_better: bool | None = None


@dataclass
class AucSettings:
    """Settings of `RocAuc`."""

    name: str = "roc_auc"
    average: str = "macro"
    higher_is_better: bool | None = None


@dataclass
class MeanIoUSettings:
    """Settings of `MeanIoU`.

    Args:
        name: The metric's name.
        num_classes: Number of classes; required.
        ignore: Label of pixels that do not count; None counts all pixels.
        axis: Class axis of the output; None for the last axis if its length is the number of classes, else the second.
        higher_is_better: Overrides the metric's direction.
    """

    name: str = "mean_iou"
    num_classes: int = 0
    ignore: int | None = None
    axis: int | None = None
    higher_is_better: bool | None = None


@dataclass
class CocoMapSettings:
    """Settings of `CocoMap`.

    Args:
        name: The metric's name.
        boxes: Position of the boxes among the model's outputs.
        scores: Position of the scores.
        classes: Position of the class numbers.
        box_format: ``corners``: two opposite corners, x or y first; ``xywh``: the first corner, then the sizes.
        class_offset: Number that is added to the model's class numbers to obtain those of the labels.
        iou: Overlap (IoU) from which a box counts as detected; None for the mean over 0.50 to 0.95.
        max_detections: Number of boxes per sample that count, those with the highest scores.
        higher_is_better: Overrides the metric's direction.
    """

    name: str = "coco_map"
    boxes: int = 0
    scores: int = 1
    classes: int = 2
    box_format: str = "corners"
    class_offset: int = 0
    iou: float | None = None
    max_detections: int = 100
    higher_is_better: bool | None = None


@dataclass
class PythonMetricSettings:
    """Settings of `PythonMetric`.

    Args:
        name: The metric's name.
        target: ``module:function`` or ``path/to/file.py:function``.
        outputs: Positions of the model's outputs that the function receives; None for one output, the first unless
            ``metrics.accuracy.output`` names another.
        higher_is_better: Direction of the metric.
    """

    name: str = "python"
    target: str = "???"
    outputs: list[int] | None = None
    higher_is_better: bool | None = None


@dataclass
class PerplexitySettings:
    """Settings of `Perplexity`.

    Args:
        name: The metric's name.
        shift: Whether labels are the input's own ids, so that the logits at position t score the label at t + 1. False
            if labels are the next tokens already.
        ignore: Label of tokens that do not count.
        higher_is_better: Overrides the metric's direction.
    """

    name: str = "perplexity"
    shift: bool = True
    ignore: int = -100
    higher_is_better: bool | None = None
