"""Labels of object detection: the boxes of all samples in one rectangular array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.errors import InputError

BOX_ARRAYS = ("boxes", "labels", "image_ids")
NO_BOX = -1.0
"""Class number of the rows that fill up a sample with fewer boxes."""


def pack_boxes(
    key: str,
    samples: int,
    boxes: NDArray[Any],
    labels: NDArray[Any],
    image_ids: NDArray[Any],
    iscrowd: NDArray[Any] | None = None,
) -> NDArray[np.float64]:
    """Pack the boxes of all samples into one array.

    Args:
        key: Configuration key that errors name.
        samples: Number of samples.
        boxes: Shape (boxes, 4), in the coordinates of the model's predicted boxes.
        labels: Class number per box, shape (boxes,).
        image_ids: Position of the box's sample, from 0, shape (boxes,).
        iscrowd: Whether the box marks a crowd, whose detection is optional; shape (boxes,).

    Returns:
        Shape (samples, most boxes per sample, 6): four coordinates, the class, 1 for a crowd. Rows beyond a sample's
        number of boxes have class -1.

    Raises:
        InputError: the arrays do not fit each other or the samples.
    """
    crowd = np.zeros(len(boxes)) if iscrowd is None else iscrowd
    for name, array, wanted in (
        ("boxes", boxes, (len(boxes), 4)),
        ("labels", labels, (len(boxes),)),
        ("image_ids", image_ids, (len(boxes),)),
        ("iscrowd", crowd, (len(boxes),)),
    ):
        if array.shape != wanted or array.dtype.kind not in "fiub":
            raise InputError(
                key, f"array {name!r} has shape {array.shape} and type {array.dtype}", f"numbers of shape {wanted}"
            )
    if len(labels) and labels.min() < 0:
        raise InputError(key, f"array 'labels' holds {labels.min()}", "class numbers from 0")
    owners = image_ids.astype(np.int64)
    if not np.array_equal(owners, image_ids) or (len(owners) and not 0 <= owners.min() <= owners.max() < samples):
        raise InputError(
            key, "array 'image_ids' names samples that do not exist", f"positions in x, from 0 to {samples - 1}"
        )
    counts = np.bincount(owners, minlength=samples)
    packed = np.zeros((samples, max(1, int(counts.max(initial=0))), 6))
    packed[:, :, 4] = NO_BOX
    order = np.argsort(owners, kind="stable")
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = np.column_stack([boxes, labels, crowd]).astype(np.float64) if len(boxes) else np.zeros((0, 6))
    packed[owners[order], place] = rows[order]
    return packed
