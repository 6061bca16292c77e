"""Labels per token, which padding and cut outputs make longer or shorter than the outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import InputError
from nc_strategies.metrics.base import Array

IGNORE = -100
"""Label of tokens that do not count: the value that PyTorch's cross-entropy ignores by default."""


def check_scores(scores: Array, places: str, classes: str) -> None:
    """Check that an output has scores of each place, or the number of a class at each place.

    Args:
        scores: The output, shape (n, places, classes) or (n, places).
        places: What the places are, for the error.
        classes: What the classes are.

    Raises:
        InputError: its shape or type is another one.
    """
    if scores.dtype.kind in "fiub" and scores.ndim == (3 if scores.dtype.kind == "f" else 2):
        return
    raise InputError(
        "metrics.accuracy.output",
        f"the output has shape (N, {', '.join(map(str, scores.shape[1:]))}) and type {scores.dtype}",
        f"scores (N, {places}, {classes}) or {classes.removesuffix('s')} numbers (N, {places})",
    )


def token_labels(labels: Array, length: int, ignore: int = IGNORE) -> NDArray[np.int64]:
    """Labels of tokens in the length of the outputs.

    A batch may be padded to its own longest sample, and a model may return fewer or more positions than there are
    labels. Positions without a label are ignored.

    Args:
        labels: Shape (n, tokens), or an array of objects, shape (n,): the labels of each sample, shape (tokens,).
        length: Positions of the outputs.
        ignore: Label of tokens that do not count.

    Returns:
        Shape (n, length).

    Raises:
        InputError: labels are not whole numbers per token, or one that counts is beyond the outputs.
    """
    rows = [np.asarray(row) for row in labels]
    if any(row.ndim != 1 for row in rows):
        raise InputError("data", f"labels of shape {np.shape(labels)} are not one per token", "shape (N, tokens)")
    found = np.full((len(rows), length), ignore, np.int64)
    for place, row in enumerate(rows):
        whole = row.astype(np.int64)
        if not np.array_equal(whole, row):
            raise InputError("data", "labels are not whole numbers", "one class number per token")
        if (whole[length:] != ignore).any():
            raise InputError(
                "data",
                f"a sample has labels for {len(whole)} tokens, the output {length} positions",
                f"a position for each token; {ignore} marks those that do not count",
            )
        found[place, : len(whole)] = whole[:length]
    return found


def check_classes(labels: NDArray[np.int64], counted: NDArray[np.bool_], classes: int, what: str) -> None:
    """Check the labels that count against the number of classes.

    Args:
        labels: Shape (n, tokens).
        counted: Whether each label counts, the same shape.
        classes: Number of classes of the outputs.
        what: What a class is, for the error.

    Raises:
        InputError: a label is not one of the classes.
    """
    values: Any = labels[counted]
    if values.size and (values.min() < 0 or values.max() >= classes):
        raise InputError(
            "data",
            f"labels run from {values.min()} to {values.max()}",
            f"the output scores {classes} {what}: 0 to {classes - 1}; {IGNORE} marks what does not count",
        )
