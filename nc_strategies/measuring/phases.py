"""The two phases of a decoder's work: reading a prompt at once (prefill), and writing token by token (decode)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.data.dataset import Dataset
from nc_strategies.errors import InputError
from nc_strategies.measuring.latency import Timing
from nc_strategies.measuring.lengths import TimedBatch
from nc_strategies.models.decoder import Decoder, empty
from nc_strategies.models.info import ModelInfo
from nc_strategies.problem.evaluation import RUN_MS, Pairs

KEY = "measure.context_lengths"
PREFILL, DECODE = "prefill", "decode"
SEED = 0
"""Seed of the past keys and values: their values do not matter, but numbers near zero could be slow to compute with."""


def phase_batches(data: Dataset, size: int, lengths: Sequence[int]) -> tuple[TimedBatch, ...]:
    """The batches that a decoder's time per token is measured with: prefill and decode at each context length.

    A prefill reads as many tokens with an empty past. A decode reads one token with a past of as many. Both have the
    same weight per token, as if as many tokens were read as are written.

    Args:
        data: Evaluation samples, from which the tokens are taken.
        size: Sequences per run.
        lengths: Context lengths.

    Raises:
        InputError: the model has no past keys and values as inputs.
    """
    decoder = data.feeds.decoder
    if decoder is None:
        raise InputError(
            KEY,
            f"is {list(lengths)}, but the model has no past keys and values as inputs",
            "an export with inputs such as past_key_values.0.key; measure.lengths sets the length of other inputs",
        )
    given = data.batch(0, size)
    weight = 0.5 / len(lengths)
    rng = np.random.default_rng(SEED)
    batches = []
    for length in sorted(lengths):
        prefill = _tokens(decoder, data.feeds.info, given, size, length, 0)
        decode = _tokens(decoder, data.feeds.info, given, size, 1, length)
        for spec in data.feeds.info.inputs:
            if spec.name in decoder.past:
                past = empty(spec, size, length)
                decode[spec.name] = rng.normal(size=past.shape).astype(past.dtype)
        batches += [
            TimedBatch(prefill, weight, length, PREFILL, length),
            TimedBatch(decode, weight, length, DECODE),
        ]
    return tuple(batches)


def run_ms(timing: Timing, batches: Sequence[TimedBatch], model: int) -> Pairs:
    """The value `RUN_MS` of a model whose latency is given per token; empty for other models."""
    if not any(timed.phase for timed in batches):
        return ()
    runs = [part.median_ms(model) * timed.tokens for timed, part in zip(batches, timing.parts, strict=True)]
    return ((RUN_MS, sum(runs) / len(runs)),)


def _tokens(
    decoder: Decoder, info: ModelInfo, given: dict[str, NDArray[Any]], size: int, new: int, past: int
) -> dict[str, NDArray[Any]]:
    """Inputs of a run that reads `new` tokens after `past` ones, without the past keys and values.

    Other inputs with a value per token, such as segments, are cut or repeated as the tokens are.
    """
    tokens = given[decoder.tokens]
    batch = {
        name: np.resize(array, (size, new)) if array.shape == tokens.shape else array for name, array in given.items()
    }
    dtypes = {spec.name: spec.dtype for spec in info.inputs}
    if decoder.mask:
        batch[decoder.mask] = np.ones((size, past + new), dtypes[decoder.mask])
    if decoder.positions:
        places = np.arange(past, past + new, dtype=dtypes[decoder.positions])
        batch[decoder.positions] = np.broadcast_to(places, (size, new))
    if decoder.flag:
        batch[decoder.flag] = np.full(1, past > 0, dtypes[decoder.flag])
    return batch
