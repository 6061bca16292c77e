"""The charts of the page of many runs: Vega-Lite specifications without data, which the page fills in.

The page chooses the runs: its scripts put the points into ``data.values``, one per run, with the fields that the
encodings name.
"""

from __future__ import annotations

from nc_strategies.report.charts import POINT, SHAPES, Spec, spec

HEIGHT = 320
"""Height in pixels of the charts whose height does not depend on the number of runs."""
STATES = {"met": "kept", "missed": "missed"}
"""Status of a run to the name of its colour and shape in the other charts."""


def specs() -> dict[str, Spec]:
    """Name of each chart to its specification."""
    return {"speedup": _speedup(), "accuracy": _accuracy(), "loss": _loss()}


def _colour() -> Spec:
    return {
        "field": "status",
        "type": "nominal",
        "title": None,
        "scale": {"domain": list(STATES), "range": [f"var(--{name})" for name in STATES.values()]},
    }


def _marks() -> Spec:
    shape = {**_colour(), "scale": {"domain": list(STATES), "range": [SHAPES[name] for name in STATES.values()]}}
    return {"color": _colour(), "shape": shape}


def _tip() -> list[Spec]:
    return [
        {"field": "run"},
        {"field": "status"},
        {"field": "metric"},
        {"field": "reached", "title": "reached", "format": ".4f"},
        {"field": "asked", "title": "asked", "format": ".4f"},
        {"field": "speedup", "title": "times fp32", "format": ".2f"},
        {"field": "interval", "title": "95 %"},
    ]


def _line(axis: str, value: float) -> Spec:
    """A dashed line across the chart: fp32, or the limit of the loss."""
    return {
        "data": {"values": [{"one": 1}]},
        "mark": {"type": "rule", "strokeDash": [6, 4], "color": "var(--goal)", "strokeWidth": 1.5},
        "encoding": {axis: {"datum": value}},
    }


def _speedup() -> Spec:
    # The page draws the runs in the order of its table. Vega does not sort them: it would put names into expressions.
    y = {"field": "label", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 190}}
    x = {"type": "quantitative", "title": "times as fast as fp32"}
    layer: list[Spec] = [
        {
            "mark": {"type": "bar", "height": {"band": 0.62}},
            "encoding": {"y": y, "x": {**x, "field": "speedup"}, "color": _colour(), "tooltip": _tip()},
        },
        {
            "mark": {"type": "rule", "strokeWidth": 2, "color": "var(--ink)"},
            "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}, "tooltip": _tip()},
        },
        *(
            {
                "mark": {"type": "tick", "orient": "vertical", "thickness": 2, "size": 9, "color": "var(--ink)"},
                "encoding": {"y": y, "x": {**x, "field": end}},
            }
            for end in ("low", "high")
        ),
        _line("x", 1),
    ]
    return spec("Speed-up of each chosen run with its 95 % interval; the dashed line is fp32.", HEIGHT, [], layer)


def _ratio() -> Spec:
    return {
        "field": "ratio",
        "type": "quantitative",
        "title": "latency, fp32 = 1; less is better",
        "scale": {"zero": False, "nice": True},
    }


def _against(y: Spec, extra: list[Spec], text: str) -> Spec:
    """A chart of the latency ratio against something, with the interval of the ratio."""
    x = _ratio()
    layer: list[Spec] = [
        _line("x", 1),
        *extra,
        {
            "mark": {"type": "rule", "strokeWidth": 1.5},
            "encoding": {"x": {**x, "field": "left"}, "x2": {"field": "right"}, "y": y, "color": _colour()},
        },
        {"mark": {**POINT, "size": 95}, "encoding": {"x": x, "y": y, "tooltip": _tip(), **_marks()}},
    ]
    return spec(f"{text} The same numbers are in the table of runs.", HEIGHT, [], layer)


def _accuracy() -> Spec:
    y = {"field": "reached", "type": "quantitative", "title": "metric", "scale": {"zero": False, "nice": True}}
    asked: list[Spec] = [
        {
            "mark": {"type": "rule", "strokeWidth": 1, "color": "var(--goal)", "opacity": 0.7},
            "encoding": {"x": _ratio(), "y": {**y, "field": "asked"}, "y2": {"field": "reached"}},
        },
        {
            "mark": {"type": "tick", "orient": "horizontal", "thickness": 2, "size": 13, "color": "var(--goal)"},
            "encoding": {"x": _ratio(), "y": {**y, "field": "asked"}},
        },
    ]
    return _against(
        y, asked, "The metric of each chosen run against its latency relative to fp32's, with what is asked."
    )


def _loss() -> Spec:
    y = {
        "field": "loss",
        "type": "quantitative",
        "title": "loss, tolerated loss = 1; less is better",
        "scale": {"nice": True},
    }
    interval: Spec = {
        "transform": [{"filter": "isValid(datum.loss_low)"}],
        "mark": {"type": "rule", "strokeWidth": 1.5},
        "encoding": {"x": _ratio(), "y": {**y, "field": "loss_low"}, "y2": {"field": "loss_high"}, "color": _colour()},
    }
    return _against(y, [_line("y", 1), interval], "The loss of each chosen run against its latency relative to fp32's.")
