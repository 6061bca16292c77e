"""Settings of the metrics; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class TopKSettings:
    """Settings of `TopK`."""

    name: str = "topk"
    k: int = 5
    higher_is_better: bool | None = None


@dataclass
class PlainSettings:
    """Settings of a metric that has none of its own."""

    name: str = "top1"
    higher_is_better: bool | None = None


@dataclass
class SklearnSettings:
    """Settings of `ClassificationScore`.

    Args:
        name: ``f1``, ``precision`` or ``recall``.
        average: How classes are averaged, in scikit-learn's words.
        threshold: Output above which a class counts as found, any number of them a sample; None for the highest.
        higher_is_better: To overrule the metric's direction.
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
        num_classes: Number of classes; to be given.
        ignore: Label of pixels that do not count; None counts all.
        axis: Axis of the classes in the output; None to take the last when it is as long as there are classes, else
            the second.
        higher_is_better: To overrule the metric's direction.
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
        scores: That of the scores.
        classes: That of the class numbers.
        box_format: ``corners``: two opposite corners, x or y first; ``xywh``: the first corner, then sizes.
        class_offset: Added to the model's class numbers to get those of the labels.
        iou: Overlap from which a box counts as found; None for the mean over 0.50 to 0.95.
        max_detections: Boxes of a sample that count, the best ones.
        higher_is_better: To overrule the metric's direction.
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
        outputs: Positions of the model's outputs that it is given.
        higher_is_better: Its direction.
    """

    name: str = "python"
    target: str = "???"
    outputs: list[int] = field(default_factory=lambda: [0])
    higher_is_better: bool | None = None
