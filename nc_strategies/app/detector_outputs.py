"""Whether a model is an object detector, guessed from its outputs and operators, and which metric reads its outputs."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nc_strategies.models.facts import Dimension, ModelFacts, TensorFacts

COORDINATES = 4
"""Numbers that describe a box: two corners, or a corner or centre and two sizes."""
PICTURE_AXES = 4
"""Axes of a batch of pictures."""
MIN_WIDTH = 5
"""Least numbers of a box that is not decoded yet: its coordinates, and a score or the scores of one class."""
MIN_CANDIDATES_PER_WIDTH = 5
"""Least ratio of boxes to numbers of a box. Detectors have thousands of boxes with some tens of numbers; the patches
and features, or steps and characters, of other models for pictures are about as many."""
HALVED = 4
"""Ratio of the cells of two grids, of which one has half the height and width."""
SUPPRESSION = re.compile("NonMaxSuppression|NMS")
"""Types of operators that only detectors have."""
BOXES = re.compile("box", re.IGNORECASE)
SCORES = re.compile("score|conf|prob", re.IGNORECASE)
CLASSES = re.compile("class|label|categor|cls", re.IGNORECASE)
METRIC = "coco_map"
"""The metric that reads boxes, scores and class numbers; see `nc_strategies.metrics.detection`."""


@dataclass(frozen=True)
class DetectorOutputs:
    """The outputs of a detector.

    Args:
        positions: Setting of the metric to the position of its output: of boxes (N, boxes, 4), scores (N, boxes) and
            class numbers (N, boxes); empty where the metric does not read these outputs.
    """

    positions: Mapping[str, int]


def detector_outputs(
    facts: ModelFacts, inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts], axes: Mapping[str, int | None]
) -> DetectorOutputs | None:
    """Guess whether a model is a detector.

    Args:
        facts: What its file says.
        inputs: Its inputs.
        outputs: Its outputs.
        axes: Name of each input or output to the axis that counts samples.

    Returns:
        None for a model that does not look like one.
    """
    suppresses = any(SUPPRESSION.search(kind) for kind in facts.operators)
    if not suppresses and not any(len(i.shape or ()) == PICTURE_AXES for i in inputs):
        return None
    boxes = [k for k, o in enumerate(outputs) if _is_boxes(o, axes)]
    boxes.sort(key=lambda k: BOXES.search(outputs[k].name) is None)
    positions = _positions(boxes[0], outputs, axes) if boxes else {}
    raw = _is_undecoded(outputs, axes) or _are_pyramid(outputs, axes)
    if positions or suppresses or (boxes and len(outputs) > 1) or raw:
        return DetectorOutputs(positions)
    return None


def _is_boxes(output: TensorFacts, axes: Mapping[str, int | None]) -> bool:
    shape = output.shape or ()
    return len(shape) == 3 and shape[2] == COORDINATES and axes.get(output.name) == 0 and "float" in output.dtype


def _positions(boxes: int, outputs: Sequence[TensorFacts], axes: Mapping[str, int | None]) -> dict[str, int]:
    """Positions of boxes, and of scores and class numbers of these boxes; empty where one of the two is missing.

    Scores and class numbers are told apart by their names, else by their types, else they are in this order.
    """
    count = (outputs[boxes].shape or ())[1]
    beside = [k for k, o in enumerate(outputs) if len(o.shape or ()) == 2 and axes.get(o.name) == 0]
    beside = [k for k in beside if _alike((outputs[k].shape or ())[1], count)]
    scores = [k for k in beside if SCORES.search(outputs[k].name) and "float" in outputs[k].dtype]
    classes = [k for k in beside if k not in scores and (CLASSES.search(outputs[k].name) or "int" in outputs[k].dtype)]
    rest = [k for k in beside if k not in scores and k not in classes]
    if not scores and rest and "float" in outputs[rest[0]].dtype:
        scores = [rest.pop(0)]
    classes = classes or rest[:1]
    return {"boxes": boxes, "scores": scores[0], "classes": classes[0]} if scores and classes else {}


def _alike(size: Dimension, count: Dimension) -> bool:
    """Whether an output can have a number for each box, as far as the sizes of both are known."""
    return size == count if isinstance(size, int) and isinstance(count, int) else size != 1


def _is_undecoded(outputs: Sequence[TensorFacts], axes: Mapping[str, int | None]) -> bool:
    """Whether the first output may be (N, boxes, 5 + classes) or (N, 4 + classes, boxes), beside grids alone."""
    first = outputs[0] if outputs else None
    if first is None or len(first.shape or ()) != 3 or axes.get(first.name) != 0 or "float" not in first.dtype:
        return False
    if any(len(other.shape or ()) < 4 for other in outputs[1:]):
        return False
    sizes = [size for size in (first.shape or ())[1:] if isinstance(size, int)]
    known = len(sizes) == 2
    return (
        bool(sizes) and min(sizes) >= MIN_WIDTH and (not known or max(sizes) >= MIN_CANDIDATES_PER_WIDTH * min(sizes))
    )


def _are_pyramid(outputs: Sequence[TensorFacts], axes: Mapping[str, int | None]) -> bool:
    """Whether the outputs may be a detector's grids, of which each has half the height and width of another one."""
    shapes = [output.shape or () for output in outputs]
    if not all(
        axes.get(output.name) == 0 and "float" in output.dtype and len(shape) >= PICTURE_AXES
        for output, shape in zip(outputs, shapes, strict=True)
    ):
        return False
    sizes = [[size for size in shape[1:] if isinstance(size, int)] for shape in shapes]
    if any(len(known) != len(shape) - 1 for known, shape in zip(sizes, shapes, strict=True)):
        return False
    numbers = sorted(math.prod(known) for known in sizes)
    return len(numbers) > 1 and all(high == HALVED * low for low, high in itertools.pairwise(numbers))
