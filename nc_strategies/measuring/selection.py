"""Which outputs of a model each metric reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from nc_strategies.errors import InputError
from nc_strategies.measuring.outputs import Layouts
from nc_strategies.metrics.base import Array, Keep, Metric, Outputs


class Choice(StrEnum):
    """Why a metric reads an output."""

    ONLY = "only"
    """The model has no other."""
    NAMED = "named"
    """The configuration names it."""
    FITS = "fits"
    """It is the only one that fits the labels."""
    FIRST = "first"
    """The metric cannot tell which output fits, and reads the first."""
    ALL = "all"
    """The metric reads all outputs of its type."""
    METRIC = "metric"
    """The metric's own settings, or its code, select outputs."""


@dataclass(frozen=True)
class OutputReader:
    """Selects what a metric keeps of one batch.

    Args:
        keep: The metric's `Metric.keep`.
        positions: Positions of the outputs that it reads.
        choice: Why these.
        alone: Whether `keep` gets the outputs at `positions` only, and not all outputs of the model.
        accepts_nonfinite: See `Metric.accepts_nonfinite`.
    """

    keep: Keep
    positions: tuple[int, ...] = (0,)
    choice: Choice = Choice.ONLY
    alone: bool = True
    accepts_nonfinite: bool = False

    def __call__(self, outputs: Sequence[Array]) -> Outputs:
        """Result of `keep`, from all outputs of one batch."""
        return self.keep([outputs[place] for place in self.positions] if self.alone else outputs)


@dataclass(frozen=True)
class Request:
    """A metric and the output that the configuration names for it.

    Args:
        key: Configuration key of the metric.
        metric: The metric.
        output: Name of the output, or several for a metric that reads several; None where the configuration names none.
    """

    key: str
    metric: Metric
    output: str | tuple[str, ...] | None = None


def select(request: Request, layouts: Layouts, labels: Array) -> OutputReader:
    """Select the outputs that a metric reads.

    Args:
        request: The metric.
        layouts: The model's outputs.
        labels: Labels of all samples, shape (N, ...).

    Raises:
        InputError: no output has the name, or not exactly one fits the labels.
    """
    metric = request.metric
    if not metric.needs_labels:
        reader = _compared(request, layouts)
    elif metric.reads_several:
        reader = _several(request, layouts, labels)
    elif request.output is not None:
        reader = _named(request, layouts)
    else:
        reader = _fitting(request, layouts, labels)
    return replace(reader, accepts_nonfinite=metric.accepts_nonfinite)


def _fitting(request: Request, layouts: Layouts, labels: Array) -> OutputReader:
    """The only output that fits the labels, or the outputs that the metric's own settings or code select."""
    metric, count = request.metric, len(layouts.outputs)
    if metric.positions is not None:
        _check_positions(request, layouts, metric.positions)
        return OutputReader(metric.keep, tuple(metric.positions), Choice.METRIC, alone=False)
    if count == 1:
        return OutputReader(metric.keep)
    fits = [_fits(metric, layouts, place, labels) for place in range(count)]
    if all(fit is None for fit in fits):
        if metric.keep is not Metric.keep and not metric.reads_one:
            return OutputReader(metric.keep, tuple(range(count)), Choice.METRIC, alone=False)
        return OutputReader(metric.keep, (0,), Choice.FIRST)
    found = _same_answers(metric, layouts, [place for place, fit in enumerate(fits) if fit])
    if len(found) == 1:
        return OutputReader(metric.keep, (found[0],), Choice.FITS)
    shown = ", ".join(str(layouts.outputs[place]) for place in found)
    raise InputError(
        f"{request.key}.output",
        "is needed: "
        + (f"the outputs {shown} all fit" if found else f"none of the outputs {layouts} fits")
        + f" labels of shape {_shape(labels)}",
        f"the name of one of the outputs: {', '.join(layout.name for layout in layouts.outputs)}",
    )


def _compared(request: Request, layouts: Layouts) -> OutputReader:
    """The outputs that are compared with fp32's: the named ones, or all of the type that the metric prefers.

    An output that no axis assigns to samples is left out where the model fixes a batch of several.
    """
    metric, outputs = request.metric, layouts.outputs
    if request.output is not None:
        places = tuple(dict.fromkeys(_places(request, layouts)))
        for place in places:
            if outputs[place].dtype.kind not in "".join(metric.kinds):
                raise InputError(f"{request.key}.output", f"names {outputs[place]}", _comparable(metric, layouts))
        return OutputReader(metric.keep, places, Choice.NAMED)
    several = layouts.batch_size not in (None, 1)
    for kind in metric.kinds:
        every = tuple(place for place, output in enumerate(outputs) if output.dtype.kind in kind)
        found = tuple(place for place in every if not (several and outputs[place].axis is None)) or every
        if found:
            return OutputReader(metric.keep, found, Choice.ONLY if len(outputs) == 1 else Choice.ALL)
    raise InputError(
        f"{request.key}.name", f"finds nothing to compare: the outputs are {layouts}", _comparable(metric, layouts)
    )


def _several(request: Request, layouts: Layouts, labels: Array) -> OutputReader:
    """The outputs of a metric that may read several: the named ones, or those that it selects."""
    metric = request.metric
    if request.output is not None:
        return OutputReader(metric.keep, _places(request, layouts), Choice.NAMED)
    samples = [shown[0] if shown and len({one.shape for one in shown}) == 1 else None for shown in layouts.examples]
    found = metric.several([layout.name for layout in layouts.outputs], samples, labels)
    if found is None:
        raise InputError(
            f"{request.key}.output",
            f"is needed: it is not clear which of the outputs {layouts} to read",
            "a name, or two: [NAME,NAME]",
        )
    return OutputReader(metric.keep, found, Choice.ONLY if len(layouts.outputs) == 1 else Choice.FITS)


def _comparable(metric: Metric, layouts: Layouts) -> str:
    """What can be compared instead, for errors."""
    if any(output.dtype.kind in "iub" for output in layouts.outputs) and metric.kinds == ("f",):
        return "outputs with fractions; top1_agreement compares whole numbers too"
    return f"an output of numbers, of {layouts}"


def _named(request: Request, layouts: Layouts) -> OutputReader:
    if not isinstance(request.output, str):
        raise InputError(
            f"{request.key}.output", f"is {list(request.output or ())}", "one name: the metric reads one output"
        )
    if request.metric.positions is not None:
        raise InputError(
            f"{request.key}.output",
            f"is {request.output!r}, but this metric reads the outputs at positions {list(request.metric.positions)}",
            "either a name or positions",
        )
    place = _place(f"{request.key}.output", request.output, layouts)
    return OutputReader(request.metric.keep, (place,), Choice.NAMED)


def _places(request: Request, layouts: Layouts) -> tuple[int, ...]:
    """Positions of the outputs that the configuration names, in its order."""
    names = (request.output,) if isinstance(request.output, str) else request.output or ()
    return tuple(_place(f"{request.key}.output", name, layouts) for name in names)


def _place(key: str, asked: str, layouts: Layouts) -> int:
    """Position of the output with a name."""
    # TensorFlow's names of tensors end in their position among the results of an operator.
    names = [layout.name for layout in layouts.outputs]
    matches = [place for place, name in enumerate(names) if asked in (name, name.removesuffix(":0"))]
    if len(matches) != 1:
        raise InputError(key, f"is {asked!r}", f"the model's outputs: {layouts}")
    return matches[0]


def _check_positions(request: Request, layouts: Layouts, positions: Sequence[int]) -> None:
    count = len(layouts.outputs)
    if max(positions) >= count:
        raise InputError(
            f"{request.key}.outputs" if len(positions) == 1 else request.key,
            f"asks for the outputs at positions {list(positions)}, the model has {count} outputs",
            f"positions from 0 of {layouts}",
        )


def _fits(metric: Metric, layouts: Layouts, place: int, labels: Array) -> bool | None:
    """Whether an output fits the labels; None where the metric cannot tell."""
    samples = layouts.examples[place]
    if not samples or len({sample.shape for sample in samples}) != 1:
        return None if metric.fits(np.zeros((1, 1)), labels) is None else False
    return metric.fits(np.stack(samples), labels)


def _same_answers(metric: Metric, layouts: Layouts, found: list[int]) -> list[int]:
    """The scores among several fitting outputs, if the others are the class numbers that follow from them.

    Classifiers of scikit-learn have both: class numbers first, probabilities second.
    """
    if len(found) < 2:
        return found
    answers = {place: metric.answers(np.stack(layouts.examples[place])) for place in found}
    known = {place: answer for place, answer in answers.items() if answer is not None}
    scores = [place for place in known if layouts.outputs[place].dtype.kind == "f"]
    if len(scores) != 1 or len(known) != len(found):
        return found
    return scores if all(np.array_equal(known[scores[0]], answer) for answer in known.values()) else found


def _shape(labels: Array) -> str:
    return f"(N{''.join(f', {length}' for length in np.shape(labels)[1:])})" if np.ndim(labels) > 1 else "(N,)"


def described(request: Request, reader: OutputReader, layouts: Layouts, one_by_one: bool) -> Mapping[str, Any]:
    """What a metric reads, as plain data for ``result.json``.

    Args:
        request: The metric.
        reader: The outputs that it reads.
        layouts: The model's outputs.
        one_by_one: Whether samples are run one by one.
    """
    read = [layouts.outputs[place] for place in reader.positions]
    return {
        "output": read[0].name if len(read) == 1 else [layout.name for layout in read],
        "shapes": [list(layout.shape) for layout in read],
        "choice": str(reader.choice),
        "whole_outputs": any(layout.axis is None for layout in read),
        "one_by_one": one_by_one,
        "read_as": request.metric.read_as,
    }


def sentences(found: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """What metrics read, for each metric for which the model leaves a choice, one sentence each.

    Args:
        found: Results of `described` by the metric's name.
    """
    return tuple(
        sentence(name, one)
        for name, one in found.items()
        if one["choice"] != Choice.ONLY or one["one_by_one"] or one["read_as"]
    )


def sentence(name: str, found: Mapping[str, Any]) -> str:
    """What a metric reads, in one sentence.

    Args:
        name: The metric's name.
        found: Result of `described`.
    """
    outputs = found["output"] if isinstance(found["output"], list) else [found["output"]]
    shapes = [
        f"{output} ({', '.join(map(str, shape))})" for output, shape in zip(outputs, found["shapes"], strict=True)
    ]
    why = {
        Choice.FITS: ", the only output that fits the labels",
        Choice.ALL: ", all outputs of this type; metrics.accuracy.output names others",
        Choice.FIRST: ", the first output; metrics.accuracy.output names another",
    }.get(found["choice"], "")
    how = f", read as {found['read_as']}" if found["read_as"] else ""
    single = "; samples are run one by one, because an output does not follow the batch" if found["one_by_one"] else ""
    return f"{name} reads {' and '.join(shapes)}{why}{how}{single}"
