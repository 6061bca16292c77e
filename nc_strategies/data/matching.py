"""Matching of a model's inputs with the data: the axis that counts samples, constants, and state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nc_strategies.data.dataset import Raw, fits, samples_by_input
from nc_strategies.data.ragged import Ragged, Samples
from nc_strategies.data.settings import InputRules, Preprocess
from nc_strategies.errors import InputError, first_line
from nc_strategies.models import decoder
from nc_strategies.models.feeds import Feeds
from nc_strategies.models.info import ModelInfo, TensorSpec


@dataclass(frozen=True)
class Matched:
    """A model's inputs matched with the data.

    Args:
        feeds: The conversion of batches to the engine's feeds.
        remarks: What was found without being stated by the user, one sentence each.
    """

    feeds: Feeds
    remarks: tuple[str, ...] = ()


def match(info: ModelInfo, raw: Raw, preprocess: Preprocess, rules: InputRules) -> Matched:
    """Find where each input gets its values, and which axis of it counts samples.

    The user's rules come first. Otherwise, an axis of an input can count samples if a sample of the data has the shape
    of the other axes. Among several such axes a free one is preferred, then axis 0. An input of a single value, for
    which the data has a single value or equal ones, is a constant.

    Args:
        info: The loaded model's inputs and outputs.
        raw: Evaluation samples.
        preprocess: Preprocessing of the samples.
        rules: The user's rules.

    Raises:
        InputError: a rule names no input or output of the model, or does not fit it.
    """
    _check_names(info, rules)
    remarks: list[str] = []
    values = {**{n: a for n, a in raw.shared.items() if n in _names(info)}, **rules.constants}
    values = {name: value for name, value in values.items() if name not in rules.state}
    given = {*values, *rules.state, *(raw.inputs if len(raw.inputs) > 1 or decoder.TOKENS in raw.inputs else ())}
    generating = decoder.find(info, given)
    partial = Feeds(info, dict.fromkeys(values, np.zeros(())), rules.state, generating)
    sources = samples_by_input(raw, info, partial)
    for spec in info.inputs:
        array = sources.get(spec.name)
        if (
            array is not None
            and not isinstance(array, Ragged)
            and _is_single(spec, info)
            and spec.name not in rules.axes
            and _all_equal(array)
        ):
            values[spec.name] = array[0]
    shapes = {name: _sample_shape(name, array, preprocess) for name, array in sources.items() if name not in values}
    specs = _with_axes(info, shapes, rules, values)
    constants = {spec.name: _constant(spec, values[spec.name]) for spec in specs if spec.name in values}
    carried = {**rules.state, **(generating.past if generating is not None else {})}
    outputs = _output_axes(info, specs, rules, carried)
    single = any(spec.sample_axis is None and spec.name in shapes for spec in specs)
    found = ModelInfo(tuple(specs), tuple(outputs), 1 if single else None)
    for spec in specs:
        if spec.name in constants and spec.name not in rules.constants:
            remarks.append(
                f"Input {spec.name} is {_short(constants[spec.name])} in each run: it has one value in the data."
            )
        elif spec.sample_axis not in (0, None) and spec.name not in rules.axes:
            remarks.append(f"Input {spec.name} counts samples on axis {spec.sample_axis}.")
    if single:
        remarks.append("Samples are run one by one, because they differ in an input without an axis for samples.")
    if generating is not None:
        remarks.append(generating.remark)
    feeds = Feeds(found, constants, rules.state, generating)
    _check_state(feeds)
    return Matched(feeds, tuple(remarks))


def _names(info: ModelInfo) -> list[str]:
    return [spec.name for spec in info.inputs]


def _check_names(info: ModelInfo, rules: InputRules) -> None:
    inputs, outputs = _names(info), [spec.name for spec in info.outputs]
    ranks = {spec.name: len(spec.shape) for spec in (*info.outputs, *info.inputs)}
    for key, named, allowed in (
        ("data.constants", rules.constants, inputs),
        ("data.state", rules.state, inputs),
        ("data.state", rules.state.values(), outputs),
        ("data.axes", rules.axes, [*inputs, *outputs]),
    ):
        for name in named:
            if name not in allowed:
                raise InputError(key, f"names {name!r}", f"allowed: {', '.join(allowed)}; {info.text()}")
    for name, axis in rules.axes.items():
        if axis >= ranks[name]:
            raise InputError("data.axes", f"names axis {axis} of {name!r}, which has {ranks[name]} axes", info.text())


def _is_single(spec: TensorSpec, info: ModelInfo) -> bool:
    """Whether an input takes a single value, and not one per sample."""
    if not spec.shape:
        return spec.rank_known
    others = [other for other in info.inputs if other.name != spec.name and other.shape]
    return spec.shape == (1,) and any(other.shape[0] != 1 for other in others)


def _all_equal(array: NDArray[Any]) -> bool:
    return bool((array == array[:1]).all())


def _sample_shape(name: str, samples: Samples, preprocess: Preprocess) -> tuple[int | None, ...]:
    """Shape of a preprocessed sample, None for an axis in which samples differ.

    It is that of the sample itself if the preprocessing does not apply to it.
    """
    ragged = isinstance(samples, Ragged)
    shape = samples.sample_shape if isinstance(samples, Ragged) else samples.shape[1:]
    if preprocess.is_identity or (preprocess.inputs is not None and name not in preprocess.inputs):
        return shape
    try:
        made: list[tuple[int, ...]] = [
            preprocess(sample[None]).shape[1:]
            for sample in ([samples[0], samples[_other(samples)]] if isinstance(samples, Ragged) else [samples[0]])
        ]
    except InputError:
        return shape  # `Dataset` reports it
    if not ragged:
        return made[0]
    return tuple(a if a == b else None for a, b in zip(*made, strict=True))


def _other(samples: Ragged) -> int:
    """Position of the sample whose shape differs most from the first one's."""
    return int(np.abs(samples.shapes - samples.shapes[0]).astype(bool).sum(1).argmax())


def _with_axes(
    info: ModelInfo, shapes: Mapping[str, tuple[int | None, ...]], rules: InputRules, values: Mapping[str, Any]
) -> list[TensorSpec]:
    """The inputs with the axes that count samples."""
    possible = {spec.name: _possible(spec, shapes.get(spec.name), rules) for spec in info.inputs}
    sampled = [spec for spec in info.inputs if spec.shape and spec.name not in values]
    plain = [spec for spec in sampled if 0 in possible[spec.name]]
    # A first axis of 1 is a model that was exported for single samples; any other fixed size is hardly a batch size if
    # a free axis can count samples as well.
    free = any(spec.shape[0] is None for spec in plain) or (
        all(any(spec.shape[axis] is None for axis in possible[spec.name]) for spec in sampled)
        and not any(spec.shape[0] == 1 for spec in plain)
    )
    size = None if free or not plain else plain[0].shape[0]
    return [
        replace(spec, sample_axis=_axis(spec, possible[spec.name], size, spec.name in values, spec.name in rules.axes))
        for spec in info.inputs
    ]


def _possible(spec: TensorSpec, shape: tuple[int | None, ...] | None, rules: InputRules) -> list[int]:
    """The axes of an input that can count samples."""
    if spec.name in rules.axes:
        return [rules.axes[spec.name]]
    axes = range(len(spec.shape))
    if shape is None:
        return list(axes)
    others = {axis: spec.shape[:axis] + spec.shape[axis + 1 :] for axis in axes}
    found = [axis for axis, rest in others.items() if fits(shape, rest)]
    # An axis in which samples differ is free, if possible: a fixed one is filled up.
    free = [a for a in found if all(g is not None or w is None for g, w in zip(shape, others[a], strict=True))]
    return free or found


def _axis(spec: TensorSpec, possible: list[int], size: int | None, constant: bool, stated: bool) -> int | None:
    """The axis that counts samples, given the batch size of the other inputs (None if it is free)."""
    if not spec.rank_known:
        return None if constant else 0
    if not spec.shape or (constant and spec.shape == (1,)):
        return None
    if spec.shape == (1,) and size != 1:
        return None
    if stated:
        return possible[0]
    for wanted in (size, None):
        fitting = [axis for axis in possible if spec.shape[axis] == wanted]
        if fitting:
            return fitting[0]
    return None if constant else 0  # `Dataset` reports samples that do not fit


def _constant(spec: TensorSpec, value: Any) -> NDArray[Any]:
    """A constant in the input's type: of the input's shape, or of one sample's if the input counts samples."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{array.dtype} is no number")
        given = array.astype(spec.dtype)
        if not np.array_equal(given, array):
            raise ValueError(f"{spec.dtype} cannot hold it")
        shape = tuple(size or 1 for size in spec.sample_shape)
        fixed = given.reshape(shape) if given.size == int(np.prod(shape)) else np.broadcast_to(given, shape)
        return np.ascontiguousarray(fixed).reshape(shape)
    except (ValueError, TypeError) as error:
        raise InputError(
            "data.constants",
            f"{value!r} does not fit input {spec.name!r} ({first_line(error)})",
            f"it is {spec.text()}",
        ) from None


def _short(array: NDArray[Any]) -> str:
    return str(array.flat[0]) if array.size == 1 else f"an array of shape {array.shape}"


def _output_axes(
    info: ModelInfo, inputs: list[TensorSpec], rules: InputRules, carried: Mapping[str, str]
) -> list[TensorSpec]:
    """The outputs with the axes that count samples.

    They are those that are stated, the axis of the input that a carried state goes to, or the only free axis of an
    output whose axis 0 has a fixed size although the batch is free.
    """
    axes = {spec.name: spec.sample_axis for spec in inputs}
    of_state = {output: axes[name] for name, output in carried.items()}
    sizes = {spec.batch_size for spec in inputs if spec.sample_axis is not None}
    found = []
    for spec in info.outputs:
        axis = rules.axes.get(spec.name, of_state.get(spec.name, spec.sample_axis))
        free = [place for place, size in enumerate(spec.shape) if size is None]
        stated = spec.name in rules.axes or spec.name in of_state
        if not stated and sizes == {None} and axis == 0 and 0 not in free and len(free) == 1:
            axis = free[0]
        found.append(replace(spec, sample_axis=axis))
    return found


def _check_state(feeds: Feeds) -> None:
    outputs = {spec.name: spec for spec in feeds.info.outputs}
    for spec in feeds.info.inputs:
        if spec.name not in feeds.state:
            continue
        if None in spec.sample_shape:
            raise InputError(
                "data.state", f"names {spec.name!r}, which has free axes beside the samples", f"it is {spec.text()}"
            )
        if spec.sample_axis is None:
            raise InputError("data.state", f"names {spec.name!r}, which has no axis for samples", "see data.axes")
        output = outputs[feeds.state[spec.name]]
        if len(output.shape) != len(spec.shape) or output.dtype != spec.dtype:
            raise InputError(
                "data.state", f"{spec.text()} does not fit the output {output.text()}", "equal shapes and types"
            )
