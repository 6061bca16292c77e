"""Decoders with past keys and values as inputs, as exporters of language models write them.

A run of such a model reads new tokens and the keys and values of all earlier ones. With an empty past it reads a whole
sequence at once (prefill); with one new token it continues a sequence (decode).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.models.info import Batch, ModelInfo, TensorSpec

PAST, PRESENT = "past", "present"
PAST_PREFIXES = ("past_key_values", "past")
"""Beginnings of the names of past inputs, the longest first: optimum's and onnxruntime-genai's exports."""
PRESENT_PREFIXES = ("present", "present_key_values")
"""Beginnings of the names of the outputs that hold the keys and values for the next run."""
TOKENS, MASK, POSITIONS, FLAG = "input_ids", "attention_mask", "position_ids", "use_cache_branch"
"""Names of the other inputs in these exports. The flag of a merged decoder says whether there is a past."""
LEAST_RANK = 3
"""Least rank of past keys and values: samples, positions, and the elements of a head."""


@dataclass(frozen=True)
class Decoder:
    """What the inputs of a decoder with past keys and values are.

    Args:
        past: Past input to the output that it gets in the next run.
        tokens: Input of the token numbers, shape (samples, new tokens).
        mask: Input of the attention mask, shape (samples, past and new tokens); empty if there is none.
        positions: Input of the positions of the new tokens, shape (samples, new tokens); empty if there is none.
        flag: Input that says whether there is a past; empty if there is none.
        derived: Inputs that are computed from the tokens, because the data does not have them.
    """

    past: Mapping[str, str]
    tokens: str
    mask: str = ""
    positions: str = ""
    flag: str = ""
    derived: frozenset[str] = field(default_factory=frozenset)

    def value(self, spec: TensorSpec, batch: Batch) -> NDArray[Any]:
        """The value of an input that the data does not have, in a run that starts its sequences.

        Args:
            spec: A past input, or a derived one.
            batch: The other inputs of the run; the first axis counts samples.
        """
        if spec.name in self.past:
            return empty(spec, len(next(iter(batch.values()))))
        if spec.name == self.flag:
            return np.zeros(1, spec.dtype)
        tokens = batch[self.tokens]
        if spec.name == self.mask:
            return np.ones(tokens.shape, spec.dtype)
        mask = batch.get(self.mask)
        if mask is not None and mask.shape == tokens.shape:
            return np.asarray(np.maximum(np.cumsum(mask, -1) - 1, 0), spec.dtype)
        return np.broadcast_to(np.arange(tokens.shape[-1], dtype=spec.dtype), tokens.shape)

    @property
    def remark(self) -> str:
        """What was found, for the user."""
        first, *more = self.past
        listed = f"{first} and {len(more)} more" if more else first
        plural = "s" if more else ""
        text = f"Input{plural} {listed} get{'' if more else 's'} the past of a decoder, which is empty in each sample"
        also = f"; {', '.join(sorted(self.derived))} follow from {self.tokens}" if self.derived else ""
        return f"{text}{also}."


def find(info: ModelInfo, given: Collection[str]) -> Decoder | None:
    """The decoder that a model's inputs and outputs make up; None for another model.

    Args:
        info: The model's inputs and outputs.
        given: Inputs whose values are known otherwise; they belong to no pair of past and present.
    """
    outputs = {spec.name: spec for spec in info.outputs}
    names = {spec.name for spec in info.inputs}
    past = {}
    for spec in info.inputs:
        output = next((outputs[name] for name in _presents(spec.name) if name in outputs), None)
        if spec.name not in given and output is not None and _grows(spec) and _alike(spec, output):
            past[spec.name] = output.name
    if not past or TOKENS not in names:
        return None
    mask, positions, flag = (name if name in names else "" for name in (MASK, POSITIONS, FLAG))
    derived = frozenset(name for name in (mask, positions, flag) if name and name not in given)
    return Decoder(past, TOKENS, mask, positions, flag, derived)


def _presents(name: str) -> list[str]:
    """Names that the output may have that belongs to a past input."""
    prefix = next((prefix for prefix in PAST_PREFIXES if name.startswith(prefix)), None)
    return [] if prefix is None else [present + name.removeprefix(prefix) for present in PRESENT_PREFIXES]


def _grows(spec: TensorSpec) -> bool:
    """Whether one axis beside the samples' is free: that of the positions."""
    return len(spec.shape) >= LEAST_RANK and spec.shape[1:].count(None) == 1


def _alike(spec: TensorSpec, output: TensorSpec) -> bool:
    return len(spec.shape) == len(output.shape) and spec.dtype == output.dtype


def empty(spec: TensorSpec, count: int, length: int = 0) -> NDArray[Any]:
    """A past of `length` positions that holds zeros, shape (count, ...) with the axis of the samples in front."""
    return np.zeros((count, *(length if size is None else size for size in spec.sample_shape)), spec.dtype)
