"""``nc-strategies inspect``: what a model is, which of its operators can be int8 and why not, and how to start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nc_strategies.app.start_command import start_command
from nc_strategies.app.usual_backend import usual_backend
from nc_strategies.errors import InputError, NcsError, first_line
from nc_strategies.models.facts import ModelFacts, TensorFacts, sample_axis
from nc_strategies.models.info import ModelInfo
from nc_strategies.models.source import SUFFIXES, ModelSource, format_of
from nc_strategies.registry import registry
from nc_strategies.space import Capabilities, OpCapability

LONGEST_TEXT = 100
"""Characters of one entry of the metadata that are shown; lists of characters and classes may have thousands."""
MOST_REST = 12
"""Operator types named in the line of those that need no choice."""
NOTHING = "no operator can run in int8, for the reasons above"
NOT_A_MODEL = "is not a frozen GraphDef"
"""What TensorFlow's loader says of a file that cannot be read as the format its name says."""


def inspect(path: Path, backend: str | None = None, trust: bool = False) -> dict[str, Any]:
    """Describe a model. No data is needed, and a model that cannot be tuned is described as far as possible.

    Args:
        path: A model file, or the folder of a SavedModel.
        backend: The backend that judges its operators; by default the one made for its format.
        trust: See `ModelSource.trust`.

    Returns:
        Plain data: the file's facts, ``inputs``, ``outputs``, ``operators``, ``refused`` (why it cannot be tuned; empty
        if it can) and ``start``.

    Raises:
        InputError: there is no such model, it cannot be read, or the backend is unknown or not installed.
    """
    if not path.exists():
        raise InputError("MODEL", f"no such file: {path}")
    kind = format_of(path)
    if kind is None:
        allowed = f"a SavedModel folder, or a file ending in {', '.join(SUFFIXES)}"
        raise InputError("MODEL", f"{path} has no known model format", allowed)
    name = backend or usual_backend((kind,))
    registry().target(registry().get("backend", name, "--backend"))
    facts = _facts(kind, path)
    info, able, refused = _judge(kind, path, name, trust)
    if facts.quantized and refused in ("", NOTHING):
        refused = "it is quantized already; the fp32 model is needed"
    inputs, outputs = facts.inputs or _tensors(info, "inputs"), facts.outputs or _tensors(info, "outputs")
    told = _described(inputs, inputs, info), _described(outputs, inputs, info)
    axes = {entry["name"]: entry["sample_axis"] for entry in (*told[0], *told[1])}
    start = start_command(path, facts, name, inputs, outputs, axes) if not refused else None
    return {
        "model": str(path),
        "format": kind,
        "size_bytes": facts.size_bytes,
        "versions": dict(facts.versions),
        "quantized": facts.quantized,
        "inputs": told[0],
        "outputs": told[1],
        "metadata": {key: _short(text) for key, text in facts.metadata.items()},
        "backend": name,
        "file_operators": {"counted": facts.counted, "types": dict(facts.operators)},
        "operators": _operators(able) if able is not None else [],
        "refused": refused,
        "start": {
            "command": start.line,
            "arguments": list(start.arguments),
            "notes": list(start.notes),
            "detector": start.detector,
            "labels": start.labels,
        }
        if start is not None
        else None,
    }


def _facts(kind: str, path: Path) -> ModelFacts:
    """What the file says. An ONNX file is read without TensorFlow."""
    try:
        if kind == "onnx":
            from nc_strategies.onnx_graph.header import facts as onnx_facts

            return onnx_facts(path)
        from nc_strategies.backends.tensorflow.facts import facts

        return facts(kind, path)
    except ImportError as error:
        extra = "onnxruntime" if kind == "onnx" else "tensorflow"
        problem = f"a package is missing ({first_line(error)})"
        raise InputError("MODEL", problem, f"pip install 'nc-strategies[{extra}]'") from None


def _judge(kind: str, path: Path, name: str, trust: bool) -> tuple[ModelInfo | None, Capabilities | None, str]:
    """What the backend says of the model: inputs and outputs, operators, and why it cannot be tuned."""
    backend = registry().create("backend", {"name": name})
    info = None
    try:
        info = backend.load(ModelSource(path.stem, {kind: path}, trust=trust))
        able = backend.capabilities()
    except NcsError as error:
        if NOT_A_MODEL in str(error):
            raise InputError("MODEL", first_line(error)) from None
        return info, None, first_line(error).replace(f"model.path ({path}): ", "").removeprefix("model.path: ")
    return info, able, "" if any(_is_int8(op) and not op.opt_in for op in able.ops) else NOTHING


def _is_int8(op: OpCapability) -> bool:
    return any(not scheme.is_float for scheme in op.schemes)


def _tensors(info: ModelInfo | None, which: str) -> tuple[TensorFacts, ...]:
    specs = getattr(info, which) if info is not None else ()
    return tuple(TensorFacts(spec.name, str(spec.dtype), tuple(spec.shape)) for spec in specs)


def _described(
    tensors: tuple[TensorFacts, ...], inputs: tuple[TensorFacts, ...], info: ModelInfo | None
) -> list[dict[str, Any]]:
    specs = {spec.name: spec for spec in (*info.inputs, *info.outputs)} if info is not None else {}
    found = []
    for tensor in tensors:
        axis, why = sample_axis(tensor, inputs)
        spec = specs.get(tensor.name)
        # The backend's own judgement is what a run goes by. Axis 0 is what it says without one.
        if spec is not None and spec.sample_axis != axis and spec.sample_axis != 0:
            axis, why = spec.sample_axis, "as the backend reads it"
        found.append(
            {
                "name": tensor.name,
                "dtype": tensor.dtype,
                "shape": list(tensor.shape) if tensor.shape is not None else None,
                "sample_axis": axis,
                "suggested_by": why,
                "free_axes": [a for a in tensor.free if a != axis],
            }
        )
    return found


def _operators(able: Capabilities) -> list[dict[str, Any]]:
    """Operators by type: how many can be int8, how many only on request, how many not and why."""
    int8 = Counter(op.type for op in able.ops if _is_int8(op) and not op.opt_in)
    opt_in = Counter(op.type for op in able.ops if _is_int8(op) and op.opt_in)
    reasons: dict[str, dict[str, int]] = {}
    for kind, reason, count in able.float_reasons():
        reasons.setdefault(kind, {})[reason] = count
    order = sorted({*int8, *opt_in, *reasons}, key=lambda k: (-int8[k], -opt_in[k], -sum(reasons.get(k, {}).values())))
    return [
        {"type": kind, "int8": int8[kind], "int8_on_request": opt_in[kind], "float": reasons.get(kind, {})}
        for kind in order
    ]


def _short(text: str) -> str:
    """The beginning of a text on one line, with the number of lines and characters left out."""
    lines, line = text.count("\n") + 1, " ".join(text.split())
    if len(line) <= LONGEST_TEXT:
        return line
    rest = f"{lines:,} lines" if lines > 1 else f"{len(text):,} characters"
    return f"{line[:LONGEST_TEXT]}... ({rest})"


def render(found: Mapping[str, Any]) -> str:
    """The result of `inspect` as text."""
    versions = ", ".join(f"{name} {text}" for name, text in found["versions"].items())
    lines = [f"{found['model']}: {found['format']}, {_bytes(found['size_bytes'])}{f'; {versions}' if versions else ''}"]
    lines.append(f"quantized already: {found['quantized'] or 'no'}")
    for which in ("inputs", "outputs"):
        lines += ["", f"{which}:", *(_tensor_line(entry) for entry in found[which])]
    if found["metadata"]:
        lines += ["", "metadata:", *(f"  {key}: {text}" for key, text in found["metadata"].items())]
    lines += ["", *_operator_lines(found)]
    if found["refused"]:
        lines += ["", f"cannot be tuned on {found['backend']}: {found['refused']}"]
    if found["start"]:
        lines += ["", "start with:", f"  {found['start']['command']}"]
        lines += [f"  # {note}" for note in found["start"]["notes"]]
    return "\n".join(lines)


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"  # 1 MB is 10^6 bytes, 1 kB is 10^3.


def _tensor_line(entry: Mapping[str, Any]) -> str:
    shape, axis = entry["shape"], entry["sample_axis"]
    sizes = "of unknown shape" if shape is None else f"({', '.join('?' if s is None else str(s) for s in shape)})"
    samples = f"samples along axis {axis}" if axis is not None else "no sample axis"
    free = entry["free_axes"]
    also = f"; also free: axis {', '.join(map(str, free))}" if free else ""
    return f"  {entry['name']}: {entry['dtype'] or '?'} {sizes}; {samples} ({entry['suggested_by']}){also}"


def _operator_lines(found: Mapping[str, Any]) -> list[str]:
    types, counted = found["file_operators"]["types"], found["file_operators"]["counted"]
    rows = found["operators"]
    lines = []
    if types and (counted == "layers" or not rows):
        text = ", ".join(f"{kind} {count}" for kind, count in types.items())
        lines.append(f"{counted} in the file: {text}")
    if not rows:
        return lines
    able = sum(row["int8"] for row in rows)
    total = able + sum(row["int8_on_request"] + sum(row["float"].values()) for row in rows)
    lines.append(f"operators on {found['backend']}, after folding: {able} of {total} can be int8")
    alike: dict[str, list[str]] = {}
    for row in rows:
        if len(row["float"]) == 1 and not row["int8"] and not row["int8_on_request"]:
            ((reason, count),) = row["float"].items()
            alike.setdefault(reason, []).append(f"{row['type']} {count}")
            continue
        parts = [f"{row['int8']} int8"] if row["int8"] else []
        if row["int8_on_request"]:
            parts.append(f"{row['int8_on_request']} int8 only where space.op_type_dict asks for it")
        parts += [f"{count} float ({reason})" for reason, count in row["float"].items()]
        lines.append(f"  {row['type']}: {', '.join(parts)}")
    lines += [f"  float ({reason}): {', '.join(kinds)}" for reason, kinds in alike.items()]
    named = {row["type"] for row in rows}
    rest = [f"{kind} {count}" for kind, count in types.items() if kind not in named] if counted == "operators" else []
    if rest:
        shown = rest[:MOST_REST] + (["..."] if len(rest) > MOST_REST else [])
        lines.append(f"  folded, fused, moving values or on integers: {', '.join(shown)}")
    return lines
