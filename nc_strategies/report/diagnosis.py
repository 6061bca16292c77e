"""What int8 does to each operator: ``diagnosis.json``, its table for the terminal, and its part of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nc_strategies.calibration.layers import RULES
from nc_strategies.measuring.diagnosis import Diagnosis
from nc_strategies.report.charts import MAX_OPERATORS, Spec, labels, spec
from nc_strategies.report.run_files import DIAGNOSIS
from nc_strategies.space import Config, Space
from nc_strategies.space.scheme import DYNAMIC

FILE = DIAGNOSIS
SCHEMA_VERSION = 1
LOOK_AT = 3
"""Number of operators that are explained in words."""
SHOWN = 20
"""Rows of the terminal's table; the file has all operators."""
Layer = Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """From when on a fact counts as a cause.

    Args:
        clipped: Share of clipped values. Percentile calibration clips 2e-4 of the calibration samples' values by
            intent; twenty times as many on other samples are too many.
        central_levels: Steps of 255 that 99 % of the values share: five of eight bits are left below this.
        unused: Share of a range that no value reaches: one bit is lost above this.
        negligible_db: Ratio above which an operator needs no attention: the noise of 1e-3 from which recovery
            acts, see `RecoveryLimits.negligible_noise`.
        dead: Share of channels that are constant.
    """

    clipped: float = 0.004
    central_levels: float = 32.0
    unused: float = 0.5
    negligible_db: float = 30.0
    dead: float = 0.05


LIMITS = Limits()


def as_dict(
    found: Diagnosis,
    config: Config,
    space: Space,
    which: str,
    backend: Mapping[str, Any],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """The content of ``diagnosis.json``.

    Args:
        found: The operators.
        config: The configuration whose errors accumulate.
        space: The search space, for the choices that each operator has.
        which: ``int8`` or ``tuned``.
        backend: The backend's name and settings.
        versions: Versions of the software.
    """
    layers = []
    for position, layer in enumerate(found.layers, 1):
        schemes = [s for s in space.schemes(space.group_of[layer.name]) if not s.is_float]
        offers = {s.activation.algorithm for s in schemes} | {s.weight.granularity for s in schemes if s.weight}
        quantized = not config.schemes[layer.name].is_float
        layers.append({"position": position, "int8": quantized, "offers": sorted(offers), **layer.to_dict()})
    worst = ranked(layers)
    return {
        "schema_version": SCHEMA_VERSION,
        "config": which,
        "samples": found.samples,
        "data": found.data,
        "backend": str(backend.get("name", "")),
        "definitions": asdict(RULES),
        "look_at": [explained(layer, backend) for layer in worst[:LOOK_AT] if layer["int8"]],
        "worst_first": [layer["name"] for layer in worst],
        "layers": layers,
        "versions": dict(versions),
    }


def ranked(layers: Sequence[Layer]) -> list[Layer]:
    """Operators by the ratio of their output alone, the lowest first; those in floating point come last."""
    return sorted(layers, key=lambda layer: (not layer["int8"], layer["alone_db"], layer["position"]))


def explained(layer: Layer, backend: Mapping[str, Any]) -> dict[str, str]:
    """Why an operator should be looked at, and what to try.

    Args:
        layer: An entry of ``layers``.
        backend: The backend's name and settings.
    """
    after = (
        "" if layer["accumulated_db"] is None else f", {decibels(layer['accumulated_db'])} dB with all errors before it"
    )
    why = [f"Its output has {decibels(layer['alone_db'])} dB alone in int8{after}."]
    suggestions = []
    if layer["alone_db"] < LIMITS.negligible_db:
        for cause in CAUSES:
            found = cause(layer, backend)
            if found is not None:
                why.append(found[0])
                suggestions.append(found[1])
        if len(why) == 1:
            why.append("No range, channel or weight stands out: the sum of its rounding errors is what int8 costs.")
        suggestions.append("keep it in fp32 (space.op_name_dict with weight or activation dtype [fp32])")
    else:
        suggestions.append("none: its error is small")
    text = ", or ".join(dict.fromkeys(filter(None, suggestions)))
    return {"operator": layer["name"], "why": " ".join(why), "suggestion": f"{text[0].upper()}{text[1:]}."}


Cause = Callable[[Layer, Mapping[str, Any]], tuple[str, str] | None]
"""Returns what is the matter, and what to try (empty for nothing but fp32); None where it does not apply."""


def _named(tensor: Mapping[str, Any]) -> str:
    return f"its {tensor['role']} {tensor['tensor']!r}"


def _outliers(layer: Layer, backend: Mapping[str, Any]) -> tuple[str, str] | None:
    found = [t for t in layer["tensors"] if t["range"] is not None and t["outliers"]]
    if not found:
        return None
    worst = max(found, key=lambda t: t["outlier_channels"][0][1])
    first = worst["outlier_channels"]
    names = ", ".join(str(channel) for channel, _ in first[:5])
    more = ", ..." if worst["outliers"] > 5 else ""
    one = worst["outliers"] == 1
    text = (
        f"{worst['outliers']} of {worst['channels']} channels of {_named(worst)} (channel{'' if one else 's'} "
        f"{names}{more}) {'reaches' if one else 'reach up to'} {first[0][1]:.0f} times the median channel's peak: with "
        f"one scale, the others have few integers."
    )
    return text, ", or ".join(_against_outliers(layer, backend))


def _against_outliers(layer: Layer, backend: Mapping[str, Any]) -> list[str]:
    """What makes the channels of a tensor more alike, or quantizes them better."""
    if layer["weight"] is None:  # No weight can take up the difference.
        return []
    tries = []
    if str(backend.get("equalize", "")) == "never":
        tries.append("equalize channels (backend.equalize=auto)")
    if str(backend.get("recovery", "")) == "none":
        tries.append("move the difference into the weights (backend.recovery=auto or [smooth_quant])")
    elif "recovery" in backend:
        tries.append("move the difference into the weights (backend.recovery=[smooth_quant_with_mul])")
    if DYNAMIC in layer["offers"] and DYNAMIC not in layer["scheme"]:
        tries.append("compute its ranges at run time (activation quant_mode [dynamic])")
    return tries


def _per_tensor_weight(layer: Layer, backend: Mapping[str, Any]) -> tuple[str, str] | None:
    weight = layer["weight"]
    if weight is None or layer["granularity"] != "per_tensor" or weight["spread"] <= RULES.outlier_ratio:
        return None
    text = (
        f"Its weight has one scale, and its largest output channel is {weight['spread']:.0f} times the median one "
        f"({weight['sqnr_db']:.1f} dB)."
    )
    return text, "one scale per channel (weight granularity [per_channel])"


def _clipped(layer: Layer, backend: Mapping[str, Any]) -> tuple[str, str] | None:
    found = [t for t in layer["tensors"] if t["clipped"] is not None and t["clipped"] > LIMITS.clipped]
    if not found:
        return None
    worst = max(found, key=lambda t: t["clipped"])
    text = f"{worst['clipped']:.1%} of the values of {_named(worst)} lie outside its range and are clipped."
    tries = "more, or more typical, calibration samples (data.calibration_samples)"
    if "minmax" not in layer["scheme"].partition(";")[0]:
        tries += " or the whole range (activation algorithm [minmax])"
    return text, tries


def _stretched(layer: Layer, backend: Mapping[str, Any]) -> tuple[str, str] | None:
    found = [
        t
        for t in layer["tensors"]
        if t["central_levels"] is not None and t["central_levels"] < LIMITS.central_levels and not t["outliers"]
    ]
    if not found:
        return None
    worst = min(found, key=lambda t: t["central_levels"])
    text = (
        f"99 % of the values of {_named(worst)} share {worst['central_levels']:.0f} of 255 steps: few large values "
        "stretch its range."
    )
    offered = [name for name in ("percentile", "kl") if name in layer["offers"]]
    return text, f"cut the range (activation algorithm {offered})".replace("'", "") if offered else "clip the values"


def _unused(layer: Layer, backend: Mapping[str, Any]) -> tuple[str, str] | None:
    found = [t for t in layer["tensors"] if t["unused"] is not None and t["unused"] > LIMITS.unused]
    if not found:
        return None
    worst = max(found, key=lambda t: t["unused"])
    low, high = worst["range"]
    text = (
        f"{worst['unused']:.0%} of the range of {_named(worst)} is unused: it goes from {low:.3g} to {high:.3g}, the "
        f"values from {worst['low']:.3g} to {worst['high']:.3g}."
    )
    return text, "calibration samples like those that the model will see (data.calibration_path)"


def _dead(layer: Layer, backend: Mapping[str, Any]) -> tuple[str, str] | None:
    output = next((t for t in layer["tensors"] if t["role"] == "output"), None)
    if output is None or not output["dead"] or output["dead"] <= LIMITS.dead * output["channels"]:
        return None
    text = f"{output['dead']} of {output['channels']} channels of {_named(output)} are constant on all samples."
    return text, "remove the constant channels from the model, or check its data"


def _noisy_weight(layer: Layer, backend: Mapping[str, Any]) -> tuple[str, str] | None:
    weight = layer["weight"]
    ratios = [t["median_channel_db"] for t in layer["tensors"] if t["median_channel_db"] is not None]
    if weight is None or not ratios or weight["sqnr_db"] >= min(ratios) or weight["sqnr_db"] >= LIMITS.negligible_db:
        return None
    text = f"Rounding its weight costs more ({weight['sqnr_db']:.1f} dB) than rounding its activations."
    known = "recovery" in backend
    return text, "round it by calibration data (backend.recovery=[gptq])" if known else "train with fake quantization"


CAUSES: tuple[Cause, ...] = (_outliers, _per_tensor_weight, _clipped, _stretched, _unused, _noisy_weight, _dead)
"""Causes in the order in which they are told."""


def worst_tensor(layer: Layer) -> Mapping[str, Any] | None:
    """The activation of an operator whose rounding leaves the lowest ratio in the median channel; None without one."""
    known = [t for t in layer["tensors"] if t["median_channel_db"] is not None]
    return min(known, key=lambda t: t["median_channel_db"], default=None)


def _most(layer: Layer, key: str) -> float | None:
    known = [t[key] for t in layer["tensors"] if t[key] is not None]
    return max(known, default=None)


COLUMNS = (
    "operator",
    "type",
    "alone (dB)",
    "accumulated (dB)",
    "weight (dB)",
    "clipped",
    "unused",
    "dead",
    "outlier channels",
)


def row(layer: Layer) -> tuple[str, ...]:
    """An operator as the cells of `COLUMNS`; of several activations, the largest share is shown."""
    clipped, unused = _most(layer, "clipped"), _most(layer, "unused")
    output = layer["tensors"][-1] if layer["tensors"] else None
    outliers = [f"{t['role']} {_channels(t)}" for t in layer["tensors"] if t["outliers"]]
    return (
        layer["name"],
        layer["type"] + ("" if layer["int8"] else " (in fp32)"),
        decibels(layer["alone_db"]),
        decibels(layer["accumulated_db"]),
        decibels(layer["weight"]["sqnr_db"] if layer["weight"] else None),
        "-" if clipped is None else f"{clipped:.2%}",
        "-" if unused is None else f"{unused:.0%}",
        str(output["dead"]) if output is not None and output["role"] == "output" else "-",
        ", ".join(outliers) or "-",
    )


def _channels(tensor: Mapping[str, Any], most: int = 3) -> str:
    """Outlier channels as text: the largest by number, and how far the first is beyond the median."""
    first = [str(channel) for channel, _ in tensor["outlier_channels"][:most]]
    more = f", ... {tensor['outliers']} in all" if tensor["outliers"] > most else ""
    return f"{', '.join(first)}{more} ({tensor['outlier_channels'][0][1]:.0f} times)"


def decibels(value: float | None) -> str:
    """A ratio as text."""
    if value is None:
        return "-"
    if value >= RULES.exact_db:
        return "exact"
    return "not finite" if value <= RULES.broken_db else f"{round(value, 1) + 0.0:.1f}"


def intro(content: Mapping[str, Any]) -> str:
    """What was compared, as a sentence."""
    where = "int8 everywhere" if content["config"] == "int8" else "the chosen configuration"
    return (
        f"Each operator's output against fp32's on {content['samples']} {content['data']} samples: alone in int8, and "
        f"with the errors of all operators before it in {where}."
    )


def render(content: Mapping[str, Any], most: int = SHOWN) -> RenderableType:
    """The diagnosis for a terminal: the operators to look at, and a table with the worst ones first."""
    parts: list[Any] = [Text(intro(content))]
    if content["look_at"]:
        parts.append(Text("\nLook at these first", "bold"))
    for number, one in enumerate(content["look_at"], 1):
        parts.append(Text(f"{number}. {one['operator']}: {one['why']} {one['suggestion']}"))
    table = Table(show_edge=False, pad_edge=False)
    for name in COLUMNS:
        words = name in ("operator", "type", "outlier channels")
        table.add_column(name, justify="left" if words else "right", overflow="fold")
    by_name = {layer["name"]: layer for layer in content["layers"]}
    for name in content["worst_first"][:most]:
        table.add_row(*map(Text, row(by_name[name])))
    parts += [Text("\nOperators, worst first", "bold"), table]
    if len(by_name) > most:
        parts.append(Text(f"and {len(by_name) - most} more in {FILE}"))
    return Group(*parts)


def view(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the page shows of a ``diagnosis.json``; None without one, or where another version wrote it."""
    if content.get("schema_version") != SCHEMA_VERSION:
        return None
    by_name = {layer["name"]: layer for layer in content["layers"]}
    return {
        "intro": intro(content),
        "look_at": content["look_at"],
        "columns": COLUMNS,
        "rows": [row(by_name[name]) for name in content["worst_first"]],
        "histogram": _title(by_name, content),
    }


def _title(by_name: Mapping[str, Layer], content: Mapping[str, Any]) -> str:
    """The caption of the histogram; empty without one."""
    found = _drawn(by_name, content)
    if found is None:
        return ""
    layer, tensor = found
    low, high = tensor["range"]
    return f"{tensor['role'].capitalize()} {tensor['tensor']} of {layer['name']}: range {low:.3g} to {high:.3g}"


def _drawn(by_name: Mapping[str, Layer], content: Mapping[str, Any]) -> tuple[Layer, Mapping[str, Any]] | None:
    """The operator and activation whose histogram is drawn."""
    for name in content["worst_first"]:
        tensor = worst_tensor(by_name[name])
        if tensor is not None:
            return by_name[name], tensor
    return None


def charts_of(content: Mapping[str, Any]) -> dict[str, Spec | None]:
    """The charts of the page's section: ratios in execution order, and the histogram of the worst operator."""
    if view(content) is None:
        return {}
    by_name = {layer["name"]: layer for layer in content["layers"]}
    return {"chart-sqnr": _sqnr(content), "chart-histogram": _histogram(_drawn(by_name, content))}


def _sqnr(content: Mapping[str, Any]) -> Spec | None:
    layers = content["layers"]
    if not layers:
        return None
    short = labels(sorted(layer["name"] for layer in layers))
    series = {"alone_db": "alone in int8", "accumulated_db": "with all errors before it"}
    data = [
        {
            "position": layer["position"],
            "operator": layer["name"],
            "label": short[layer["name"]],
            "type": layer["type"],
            "db": layer[key],
            "series": title,
        }
        for layer in layers
        for key, title in series.items()
        if layer[key] is not None and RULES.broken_db < layer[key] < RULES.exact_db
    ]
    x = {
        "field": "position",
        "type": "quantitative",
        "title": "operator, in the order of execution",
        "axis": {"tickMinStep": 1, "format": "d"},
        "scale": {"domain": [0, len(layers) + 1], "nice": False},
    }
    y = {"field": "db", "type": "quantitative", "title": "signal to noise (dB)", "scale": {"zero": False}}
    colour = {
        "field": "series",
        "type": "nominal",
        "title": None,
        "scale": {"domain": list(series.values()), "range": ["var(--int8)", "var(--missed)"]},
    }
    tip = [
        {"field": "operator"},
        {"field": "type"},
        {"field": "series", "title": "error"},
        {"field": "db", "title": "dB", "format": ".1f"},
    ]
    encoding = {"x": x, "y": y, "color": colour}
    layer = [
        {"mark": {"type": "line", "strokeWidth": 1.5, "opacity": 0.6}, "encoding": encoding},
        {
            "mark": {"type": "point", "filled": True, "size": 55 if len(layers) <= MAX_OPERATORS else 30},
            "encoding": {**encoding, "tooltip": tip},
        },
    ]
    text = "Signal-to-quantization-noise ratio of each operator's output in execution order; higher is better."
    return spec(text, 260, data, layer)


def _histogram(drawn: tuple[Layer, Mapping[str, Any]] | None) -> Spec | None:
    if drawn is None:
        return None
    tensor = drawn[1]
    (low, high), shares = tensor["bar_range"], tensor["bars"]
    width = (high - low) / len(shares)
    data = [
        {"from": low + place * width, "to": low + (place + 1) * width, "share": share}
        for place, share in enumerate(shares)
        if share > 0
    ]
    if not data:
        return None
    least = min(d["share"] for d in data) / 2
    for d in data:
        d["floor"] = least
    x = {"field": "from", "type": "quantitative", "title": "value", "scale": {"zero": False, "nice": False}}
    y = {"field": "share", "type": "quantitative", "title": "share of values", "scale": {"type": "log"}}
    tip = [{"field": name, "format": ".3g"} for name in ("from", "to", "share")]
    ends = [{"end": end, "label": f"range {end:.3g}"} for end in tensor["range"]]
    layer: list[Spec] = [
        {
            "mark": {"type": "bar", "color": "var(--int8)"},
            "encoding": {"x": x, "x2": {"field": "to"}, "y": y, "y2": {"field": "floor"}, "tooltip": tip},
        },
        {
            "data": {"values": ends},
            "mark": {"type": "rule", "strokeDash": [6, 4], "color": "var(--goal)", "strokeWidth": 1.5},
            "encoding": {
                "x": {"field": "end", "type": "quantitative"},
                "tooltip": [{"field": "label", "title": "range"}],
            },
        },
    ]
    return spec("Histogram of an activation with the ends of its quantized range, logarithmic.", 200, data, layer)
