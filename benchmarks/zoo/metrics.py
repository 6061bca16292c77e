"""Metrics of the cases, as functions that a user would write: outputs (N, ...) and labels (N, ...) to one number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.metrics.transcription import edit_distance

Array = NDArray[Any]


def cosine(outputs: Array, labels: Array) -> float:
    """Mean cosine of each sample's output to its label."""
    a, b = outputs.reshape(len(outputs), -1), labels.reshape(len(labels), -1)
    return float((np.sum(a * b, 1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1) + 1e-12)).mean())


def top1(outputs: Array, labels: Array) -> float:
    """Share of samples whose largest score is that of the label."""
    return float((outputs.reshape(len(outputs), -1).argmax(-1) == labels).mean())


def closeness(outputs: Array, labels: Array) -> float:
    """One less the mean absolute error: for outputs that are probabilities."""
    return float(1.0 - np.abs(outputs.reshape(len(outputs), -1) - labels.reshape(len(labels), -1)).mean())


def characters(outputs: Array, labels: Array) -> float:
    """One less the character error rate of the best path.

    Outputs are (N, steps, characters) with blank 0, labels are padded by -1.
    """
    wrong = total = 0
    for scores, label in zip(outputs, labels, strict=True):
        path = scores.argmax(-1)
        read = [int(c) for c, before in zip(path, [0, *path[:-1]], strict=True) if c and c != before]
        meant = [int(c) for c in label if c >= 0]
        wrong += edit_distance(read, meant)
        total += len(meant)
    return max(0.0, 1.0 - wrong / max(total, 1))
