"""What a model's file says about it, read without its weights; and which axis of a tensor counts samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BATCH_SYMBOLS = frozenset({"n", "b", "bs", "batch", "batch_size", "batchsize", "batch_dim", "num_samples", "samples"})
"""Names that exporters and authors give to the axis that counts samples, in lower case."""

Dimension = int | str | None
"""A fixed size, the name of a free one, or None for a free one without a name."""


@dataclass(frozen=True)
class TensorFacts:
    """An input or output as the file declares it.

    Args:
        name: Its name.
        dtype: Its type as numpy names it; empty if the file has none.
        shape: Its dimensions; None if the file does not even give their number.
    """

    name: str
    dtype: str
    shape: tuple[Dimension, ...] | None

    @property
    def free(self) -> tuple[int, ...]:
        """The axes without a fixed size."""
        return tuple(axis for axis, size in enumerate(self.shape or ()) if not isinstance(size, int))


@dataclass(frozen=True)
class ModelFacts:
    """What a model's file says.

    Args:
        format: ``onnx``, ``keras``, ``saved_model`` or ``graph_def``.
        size_bytes: Size of the file, or of all files of the model.
        versions: Label to version: of the format, of its operator sets, of the program that wrote it.
        inputs: Its inputs, without constants that are listed as such.
        outputs: Its outputs.
        operators: Number of operators, or of layers, by type, those in branches and loop bodies included.
        counted: What `operators` counts: ``operators`` or ``layers``.
        output_types: Name of each output to the type of the operator that computes it.
        metadata: What its author wrote into it.
        quantized: How it is quantized already; empty if it is not.
    """

    format: str
    size_bytes: int
    versions: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[TensorFacts, ...] = ()
    outputs: tuple[TensorFacts, ...] = ()
    operators: Mapping[str, int] = field(default_factory=dict)
    counted: str = "operators"
    output_types: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    quantized: str = ""


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def sample_axis(tensor: TensorFacts, inputs: Sequence[TensorFacts]) -> tuple[int | None, str]:
    """The axis that seems to count samples, and what suggests it.

    Args:
        tensor: An input or an output.
        inputs: All inputs of the model.

    Returns:
        The axis, None for a tensor without one; and a clause with the reason.
    """
    shape = tensor.shape
    if shape is None:
        return None, "its shape is not known"
    if not shape:
        return None, "a single number"
    named = [a for a, size in enumerate(shape) if isinstance(size, str) and size.lower() in BATCH_SYMBOLS]
    if named:
        return named[0], f"its size is named {shape[named[0]]!r}"
    first = shape[0]
    symbols = {i.shape[0] for i in inputs if i.shape and isinstance(i.shape[0], str)}
    shared = [a for a, size in enumerate(shape) if size in symbols]
    if shared:
        where = "axis 0 of an input" if shared[0] or tensor not in inputs else "it"
        return shared[0], "axis 0 is free" if where == "it" else f"its size {shape[shared[0]]!r} is that of {where}"
    if not isinstance(first, int):
        fixed = bool(inputs) and all(i.shape and isinstance(i.shape[0], int) for i in inputs)
        return (None, "axis 0 is free, and no input has free batches") if fixed else (0, "axis 0 is free")
    batches = any(i.shape and not isinstance(i.shape[0], int) for i in inputs)
    if batches and tensor.free and tensor in inputs:
        return tensor.free[0], f"axis {tensor.free[0]} is free, axis 0 is not, and other inputs have free batches"
    if batches and tensor in inputs:
        return None, "no axis is free, and other inputs have free batches"
    if first == 1:
        return 0, "axis 0 is fixed to 1: one sample a run"
    if any(i.shape and i.shape[0] == first for i in inputs):
        return 0, f"axis 0 is fixed to {first}: batches of {first}"
    return None, f"axis 0 has {first} entries, no input has as many"
