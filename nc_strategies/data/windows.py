"""Sliding windows over a long text, as samples of a language model."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nc_strategies.errors import InputError

IGNORE = -100
"""Label of tokens that do not count; the default of `nc_strategies.metrics.settings.PerplexitySettings`."""


def sliding_windows(
    ids: ArrayLike, length: int, stride: int | None = None, pad: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut a text into windows that overlap, each of whose tokens counts once.

    A token is predicted from the tokens before it in its window. Windows overlap by ``length - stride`` tokens, so that
    each token but the first ones of the text has at least that many before it. The repeated tokens are labelled -100
    and do not count.

    Args:
        ids: Token ids of the text, shape (tokens,).
        length: Tokens of a window: the context that the model is measured at.
        stride: Tokens between the starts of two windows, at most ``length - 1``, because nothing in its window predicts
            the first token; ``length - 1`` if None.
        pad: Token id that fills up the last window.

    Returns:
        Ids and labels, both of shape (windows, length), as data for the metric ``perplexity``. Positions beyond the end
        of the text, in the last window, have the id `pad` and the label -100.

    Raises:
        InputError: there are fewer than two tokens, or length and stride do not fit each other.
    """
    text = np.asarray(ids, np.int64).reshape(-1)
    step = length - 1 if stride is None else stride
    if len(text) < 2:
        raise InputError("ids", f"holds {len(text)} tokens", "at least 2: the first one is predicted from nothing")
    if not 1 <= step < length:
        raise InputError(
            "length", f"is {length} with stride {step}", "a length of at least 2, and a stride from 1 to length - 1"
        )
    windows, labels, counted = [], [], 0
    for start in range(0, len(text), step):
        part = text[start : start + length]
        own = np.full(length, IGNORE, np.int64)
        own[max(counted - start, 0) : len(part)] = part[max(counted - start, 0) :]
        counted = start + len(part)
        windows.append(np.concatenate([part, np.full(length - len(part), pad, np.int64)]))
        labels.append(own)
        if counted == len(text):
            break
    return np.stack(windows), np.stack(labels)
