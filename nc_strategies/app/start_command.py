"""The command line to start with for a model, guessed from its inputs and outputs."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nc_strategies.app.detector_outputs import METRIC, DetectorOutputs, detector_outputs
from nc_strategies.app.path_overrides import quote_path
from nc_strategies.models.facts import ModelFacts, TensorFacts
from nc_strategies.registry import registry

SAMPLE_RATES = {"sr": 16000, "sample_rate": 16000, "sampling_rate": 16000}
"""Usual values of scalar inputs by name, in hertz; any other scalar is guessed as 1."""
MOST_MASK_CLASSES = 256
"""Channels of a picture-shaped output up to which they are taken for the classes of a mask."""
OUTPUT_OF_PROBABILITY = re.compile("prob|logit|score|sigmoid", re.IGNORECASE)
PICTURE_CHANNELS = (1, 3, 4)
BOX_LABELS = "boxes: float32 (M, 4), labels: int64 (M,), image_ids: int64 (M,), for the M boxes of all samples"
"""Arrays of labels of a detector, see `nc_strategies.data.labels.pack_boxes`."""


@dataclass(frozen=True)
class Start:
    """A command to start with.

    Args:
        arguments: The command line's words.
        notes: Sentences on the arrays that it reads, and on its guesses.
        labels: Type, shape and meaning of the labels; empty for a metric that needs none.
        detector: Whether the model looks like an object detector.
    """

    arguments: tuple[str, ...]
    notes: tuple[str, ...]
    labels: str
    detector: bool = False

    @property
    def line(self) -> str:
        """The command line, quoted for a POSIX shell."""
        return shlex.join(self.arguments)


def start_command(
    path: Path,
    facts: ModelFacts,
    backend: str,
    inputs: Sequence[TensorFacts],
    outputs: Sequence[TensorFacts],
    axes: Mapping[str, int | None],
) -> Start:
    """Guess the command.

    Args:
        path: The model.
        facts: What its file says.
        backend: The backend's name.
        inputs: Its inputs.
        outputs: Its outputs.
        axes: Name of each input or output to the axis that counts samples.
    """
    arguments = ["nc-strategies", f"model={facts.format}", quote_path(f"model.path={path}", False)]
    arguments += [f"backend={backend}", "data=npz", "data.path=data.npz"]
    data, notes = _data(inputs, axes)
    detector = detector_outputs(facts, inputs, outputs, axes)
    if detector is None:
        metric, labels = _metric(facts, outputs, axes)
        notes += _pictures(inputs)
    else:
        metric, labels, note = _detection(detector, outputs)
        notes.append(note)
    arrays = [
        f"{'x' if len(inputs) == 1 else tensor.name}: {tensor.dtype or 'numbers'} {_shape(tensor, axes)}"
        for tensor in inputs
        if axes.get(tensor.name) is not None
    ]
    if detector is not None and labels:
        arrays.append(labels)
    else:
        arrays.append(f"y: {labels}" if labels else "no labels: fp32's own outputs are the reference")
    notes = [f"data.npz holds {'; '.join(arrays)}; N samples, a few hundred or more", *notes]
    return Start((*arguments, *data, *_preprocess(facts), *metric), tuple(notes), labels, detector is not None)


def _data(inputs: Sequence[TensorFacts], axes: Mapping[str, int | None]) -> tuple[list[str], list[str]]:
    """Settings of inputs whose samples are not along axis 0, and notes on them."""
    arguments = []
    other = {i.name: axis for i in inputs if (axis := axes.get(i.name))}
    alone = {i.name: SAMPLE_RATES.get(i.name.lower(), 1) for i in inputs if axes.get(i.name) is None}
    for key, values in (("axes", other), ("constants", alone)):
        if values:
            pairs = ", ".join(f"{name}: {value}" for name, value in values.items())
            arguments.append(f"data.{key}={{{pairs}}}")
    return arguments, [f"the values of {', '.join(alone)} are guesses"] if alone else []


def _metric(facts: ModelFacts, outputs: Sequence[TensorFacts], axes: Mapping[str, int | None]) -> tuple[list[str], str]:
    """Settings of the metric, and what the labels are; empty for a metric that needs none."""
    scores = [o for o in outputs if _floating(o) and _classes(o, axes) is not None]
    if scores:
        labels = f"int64 (N,), class numbers from 0 to {(_classes(scores[0], axes) or 1) - 1}"
        return ["metrics.accuracy.name=top1"], labels
    first = outputs[0] if outputs else TensorFacts("", "", None)
    shape = first.shape or ()
    numbers = shape[1:] in ((), (1,)) and axes.get(first.name) == 0
    if numbers and not _floating(first) and first.dtype:
        return ["metrics.accuracy.name=top1"], "int64 (N,), class numbers as the model gives them"
    if numbers and (facts.output_types.get(first.name) == "Sigmoid" or OUTPUT_OF_PROBABILITY.search(first.name)):
        return ["metrics.accuracy.name=top1"], "int64 (N,), 0 or 1"
    if numbers:
        return ["metrics=mae_latency"], "float32 (N,), the numbers it should give"
    if len(shape) == 4 and _floating(first):
        channel = shape[1] if facts.format == "onnx" else shape[-1]
        if isinstance(channel, int) and 1 < channel <= MOST_MASK_CLASSES:
            arguments = ["metrics.accuracy.name=mean_iou", f"metrics.accuracy.num_classes={channel}"]
            return arguments, f"int64 (N, height, width), 0 to {channel - 1}"
    return ["metrics=fidelity"], ""


def _detection(found: DetectorOutputs, outputs: Sequence[TensorFacts]) -> tuple[list[str], str, str]:
    """Settings of a detector's metric, the arrays of labels (empty for none), and a note on what was guessed."""
    if not found.positions:
        note = (
            "no built-in metric reads these outputs: if they are a detector's, metrics.accuracy.name=python with a "
            "function of your own that decodes them compares boxes"
        )
        return ["metrics=fidelity"], "", note
    settings = registry().get("metric", METRIC).schema
    usual = {field.name: field.default for field in dataclasses.fields(settings)} if settings is not None else {}
    arguments = [f"metrics.accuracy.name={METRIC}"]
    arguments += [f"metrics.accuracy.{name}={place}" for name, place in found.positions.items() if usual[name] != place]
    taken = ", ".join(f"{name} {outputs[place].name}" for name, place in found.positions.items())
    note = (
        f"taken for a detector's: {taken}; boxes as opposite corners in the unit of the labels, "
        "metrics.accuracy.box_format=xywh where they are a corner and sizes"
    )
    return arguments, BOX_LABELS, note


def _classes(output: TensorFacts, axes: Mapping[str, int | None]) -> int | None:
    """Number of classes that an output seems to have scores for; None if it has no scores."""
    shape = output.shape or ()
    axis = axes.get(output.name)
    if len(shape) == 2 and axis in (0, 1) and isinstance(shape[1 - axis], int) and int(shape[1 - axis] or 0) > 1:
        return int(shape[1 - axis] or 0)
    if len(shape) == 1 and axis is None and isinstance(shape[0], int) and shape[0] > 1:
        return shape[0]
    return None


def _floating(tensor: TensorFacts) -> bool:
    return "float" in tensor.dtype


def _shape(tensor: TensorFacts, axes: Mapping[str, int | None]) -> str:
    sizes = [
        "N" if axis == axes.get(tensor.name) else str(size) if isinstance(size, int) else "any"
        for axis, size in enumerate(tensor.shape or ())
    ]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _preprocess(facts: ModelFacts) -> list[str]:
    """Settings of preprocessing that the metadata state: a mean and a deviation, one number or one a channel."""
    found = []
    for name in ("mean", "std"):
        for key, text in facts.metadata.items():
            if re.search(rf"(^|[^a-z]){name}([^a-z]|$)", key.lower()):
                try:
                    values = json.loads(text if text.strip().startswith("[") else f"[{text}]")
                except ValueError:
                    continue
                if len(values) in PICTURE_CHANNELS and all(isinstance(v, int | float) for v in values):
                    found.append(f"data.preprocess.{name}=[{','.join(f'{v:g}' for v in values)}]")
                    break
    return found


def _pictures(inputs: Sequence[TensorFacts]) -> list[str]:
    """A note on pictures in folders, for a model with one input that looks like pictures."""
    shape = inputs[0].shape if len(inputs) == 1 else None
    if shape is None or len(shape) != 4 or not _floating(inputs[0]):
        return []
    first = shape[1] in PICTURE_CHANNELS and shape[3] not in PICTURE_CHANNELS
    if not first and shape[3] not in PICTURE_CHANNELS:
        return []
    layout = "data.preprocess.layout=nchw, and " if first else ""
    return [
        f"for pictures in a folder per class: data=image_folder data.path=FOLDER with {layout}the scale, mean and std "
        "(data.preprocess) that the model was trained with"
    ]
