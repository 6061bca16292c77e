"""Metrics of the cases, as functions that a user would write: outputs and labels of all samples to one number.

It needs numpy only: drivers of other tools import it in their own environments. Higher is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
CENTS = 50.0
"""A pitch is right if it is at most half a semitone from the label."""
VOICED = 0.5
"""Confidence from which a frame counts as voiced."""
IGNORED = -100
"""Label of a place that does not count."""


def cosine(outputs: Array, labels: Array) -> float:
    """Mean cosine of each sample's output to its label."""
    a, b = _flat(outputs), _flat(labels)
    return float((np.sum(a * b, 1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1) + 1e-12)).mean())


def top1(outputs: Array, labels: Array) -> float:
    """Share of samples whose largest score is that of the label."""
    return float((_flat(outputs).argmax(-1) == np.asarray(labels)).mean())


def closeness(outputs: Array, labels: Array) -> float:
    """One less the mean absolute error."""
    return float(1.0 - np.abs(_flat(outputs) - _flat(labels)).mean())


def determination(outputs: Sequence[Array], labels: Array) -> float:
    """Mean R2 of several outputs of shape (N, 1); labels are (N, outputs)."""
    return float(determination_each(outputs, labels).mean())


def determination_each(outputs: Sequence[Array], labels: Array) -> Array:
    """What each sample adds to R2, shape (N,): their mean is R2."""
    found, truth = np.concatenate([_flat(o) for o in outputs], 1), _flat(labels)
    return np.asarray((1 - (found - truth) ** 2 / truth.var(0)).mean(1))


def pitch(outputs: Sequence[Array], labels: Array) -> float:
    """Share of frames whose voicing is right, and whose pitch is if they are voiced.

    Outputs are pitch and confidence, both (N, frames); labels (N, frames, 2) are the same.
    """
    hertz, confidence = (_flat(o) for o in outputs)
    truth, voiced = labels[..., 0], labels[..., 1] >= VOICED
    off = 1200 * np.abs(np.log2(np.maximum(hertz, 1e-3) / np.maximum(truth, 1e-3)))
    return float(np.where(voiced, (confidence >= VOICED) & (off <= CENTS), confidence < VOICED).mean())


def tags(outputs: Array, labels: Array) -> float:
    """Share of places with the right tag: outputs are (N, places, tags), labels (N, places)."""
    right = total = 0
    for scores, label in zip(outputs, labels, strict=True):
        counts = label != IGNORED
        right += int((np.asarray(scores).argmax(-1) == label)[counts].sum())
        total += int(counts.sum())
    return right / max(total, 1)


def characters(outputs: Array, labels: Array) -> float:
    """One less the character error rate of the best path.

    Outputs are (N, steps, characters) with blank 0, labels are padded by -1.
    """
    wrong = total = 0
    for scores, label in zip(outputs, labels, strict=True):
        path = np.asarray(scores).argmax(-1)
        read = [int(c) for c, before in zip(path, [0, *path[:-1]], strict=True) if c and c != before]
        meant = [int(c) for c in label if c >= 0]
        wrong += edit_distance(read, meant)
        total += len(meant)
    return max(0.0, 1.0 - wrong / max(total, 1))


def edit_distance(one: list[int], other: list[int]) -> int:
    """Least number of insertions, deletions and replacements that make one list the other."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def fidelity(name: str, outputs: Sequence[Sequence[Array]], reference: Sequence[Sequence[Array]]) -> float:
    """A metric of this project that compares with fp32, in numpy.

    Args:
        name: ``cosine``, the mean over outputs and samples, or ``top1_agreement`` of the only output.
        outputs: Outputs of the model, each with one array a sample.
        reference: The same of fp32.
    """
    if name == "top1_agreement":
        return float(np.mean([a.argmax() == b.argmax() for a, b in zip(outputs[0], reference[0], strict=True)]))
    scores = [
        1.0 if np.array_equal(a, b) else _cosine(a, b)
        for output, truth in zip(outputs, reference, strict=True)
        for a, b in zip(output, truth, strict=True)
    ]
    return float(np.mean(scores))


def _cosine(one: Array, other: Array) -> float:
    a, b = np.ravel(one).astype(np.float64), np.ravel(other).astype(np.float64)
    both = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / both if both else 0.0


def _flat(values: Array) -> Array:
    found = np.asarray(values)
    return found.reshape(len(found), -1)
