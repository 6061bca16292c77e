"""Settings of the metrics. Only light modules are imported here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class DefaultGoal:
    """The goal of a metric for which no loss relative to fp32's value can be stated, because that value is 0 or a cap.

    Args:
        tolerable_loss: Default of the absolute loss, in the metric's unit.
        reason: Why a relative loss means nothing, for the user.
    """

    tolerable_loss: float
    reason: str


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


@dataclass
class FidelitySettings:
    """Settings of `Cosine`, the default fidelity."""

    name: str = "cosine"
    higher_is_better: bool | None = None


@dataclass
class SqnrSettings(FidelitySettings):
    """Settings of `Sqnr`. The default goal is 30 dB: a noise of 3 % of the signal, typical of good int8 models."""

    goal: ClassVar[DefaultGoal] = DefaultGoal(70.0, "fp32's own value is a cap of 100 dB")
    name: str = "sqnr"


@dataclass
class MaxAbsErrorSettings(FidelitySettings):
    """Settings of `MaxAbsError`. The default goal suits probabilities and normalized outputs."""

    goal: ClassVar[DefaultGoal] = DefaultGoal(0.05, "fp32's own value is 0")
    name: str = "max_abs_error"


@dataclass
class ClassFidelitySettings(FidelitySettings):
    """Settings of `Top1Agreement`.

    Args:
        name: The metric's name.
        axis: Axis of the classes, counted with the samples on axis 0; None for the last.
        higher_is_better: Overrides the metric's direction.
    """

    name: str = "top1_agreement"
    axis: int | None = None


@dataclass
class KlDivergenceSettings(ClassFidelitySettings):
    """Settings of `KlDivergence`. The default goal is a hundredth of a nat: probabilities that differ by some 7 %."""

    goal: ClassVar[DefaultGoal] = DefaultGoal(0.01, "fp32's own value is 0")
    name: str = "kl_divergence"


@dataclass
class TokenF1Settings:
    """Settings of `TokenF1`.

    Args:
        name: The metric's name.
        tags: Name of each tag number, such as ``[O, B-PER, I-PER]``; None for 0 as O, odd numbers as B, and the even
            number after each as I of the same type.
        ignore: Label of tokens that do not count.
        higher_is_better: Overrides the metric's direction.
    """

    name: str = "token_f1"
    tags: list[str] | None = None
    ignore: int = -100
    higher_is_better: bool | None = None


@dataclass
class AnswerSettings:
    """Settings of `Answer`.

    Args:
        name: ``answer_exact_match`` or ``answer_f1``.
        longest: Most tokens of an answer.
        higher_is_better: Overrides the metric's direction.
    """

    name: str = "answer_exact_match"
    longest: int = 30
    higher_is_better: bool | None = None


@dataclass
class ErrorRateSettings:
    """Settings of `ErrorRate`.

    Args:
        name: ``wer`` or ``cer``.
        ctc: Whether scores are decoded as CTC; false takes the best token of each step.
        blank: Number of the blank of CTC.
        space: Token between words, for ``wer``; None if a token is a word.
        end: Token after which a text ends; None if there is none.
        special: Further tokens that do not count, such as padding and the start of a text.
        ignore: Label of positions that do not count.
        higher_is_better: Overrides the metric's direction.
    """

    name: str = "wer"
    ctc: bool = True
    blank: int = 0
    space: int | None = None
    end: int | None = None
    special: list[int] = field(default_factory=list)
    ignore: int = -100
    higher_is_better: bool | None = None


@dataclass
class CorrelationSettings:
    """Settings of `Correlation`: ``spearman`` or ``pearson``."""

    name: str = "spearman"
    higher_is_better: bool | None = None
