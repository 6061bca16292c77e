"""The charts of a page as Vega-Lite specifications, which the page draws.

Colours are the page's CSS variables (``var(--kept)``), whose values differ between light and dark mode.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nc_strategies.problem import Evaluation, Goal, Trial
from nc_strategies.report.operators import Operator
from nc_strategies.report.run_files import RunFiles
from nc_strategies.report.swept import swept

Spec = dict[str, Any]
STATES = {"kept": "keeps the accuracy", "missed": "misses the accuracy", "pruned": "stopped early", "failed": "failed"}
SHAPES = {"kept": "circle", "missed": "triangle-up", "pruned": "square", "failed": "cross"}
POINT = {"type": "point", "filled": True, "size": 75, "opacity": 0.9, "cursor": "pointer"}
MAX_OPERATORS = 40
"""Largest number of operators in a bar chart."""
MAX_INTERVAL_RATIO = 1.2
"""Largest end of an interval, as a multiple of the highest value: a noisy trial does not compress the scale."""
OUTLIER_LOSS_RATIO = 5.0
"""Losses above this multiple of the tolerated loss, and above the median, are drawn at the chart's edge, so that the
other losses remain distinguishable."""


def _spec(description: str, height: int, values: list[dict[str, Any]], layer: list[Spec]) -> Spec:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": description,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": values},
        "layer": layer,
    }


spec = _spec
"""A specification with the page's size and layout, for charts of other modules."""


def _rule(value: dict[str, Any], y: Spec, below: bool) -> Spec:
    """A dashed horizontal line with its label at the right, below or above it."""
    text = {"type": "text", "align": "right", "dy": 9 if below else -8, "color": "var(--goal)"}
    return {
        "data": {"values": [value]},
        "encoding": {"y": y},
        "layer": [
            {"mark": {"type": "rule", "strokeDash": [6, 4], "color": "var(--goal)", "strokeWidth": 1.5}},
            {"mark": text, "encoding": {"x": {"value": "width"}, "text": {"field": "label"}}},
        ],
    }


def _state_encoding(points: Sequence[dict[str, Any]]) -> Spec:
    states = [s for s in STATES if any(p["state"] == STATES[s] for p in points)]
    labels = [STATES[s] for s in states]
    return {
        "color": {
            "field": "state",
            "type": "nominal",
            "title": None,
            "scale": {"domain": labels, "range": [f"var(--{s})" for s in states]},
        },
        "shape": {
            "field": "state",
            "type": "nominal",
            "title": None,
            "scale": {"domain": labels, "range": [SHAPES[s] for s in states]},
        },
    }


def position(run: RunFiles, done: Evaluation) -> float | None:
    """A trial's latency in ms, scaled to the final measurement of fp32; its size in kB for a size objective."""
    ratio = dict(done.ratios).get(_axis(run)[0])
    if ratio is None:
        return None
    size = _axis(run)[0] == "size"
    return ratio * float(run.baseline["size_bytes"] / 1000 if size else run.baseline["latency_ms"])


def _axis(run: RunFiles) -> tuple[str, str]:
    first = run.goal.objectives[0].name if run.goal else "latency"
    return ("size", "size (kB)") if first == "size" else ("latency", "latency (ms)")


def trade_off(run: RunFiles) -> Spec | None:
    """Accuracy against latency of every trial, with the goal, fp32 and the Pareto front; None without a trial."""
    goal = run.goal
    points = _placed(run, goal) if goal is not None else []
    if goal is None or not points:
        return None
    asked, title = goal.constraints[0], _axis(run)[1]
    _clip(points, asked.loss(asked.threshold), asked.higher_is_better, asked.baseline)
    up = asked.higher_is_better
    base = {
        "x": run.baseline["size_bytes"] / 1000 if title.startswith("size") else run.baseline["latency_ms"],
        "y": asked.baseline,
        "label": "fp32",
    }
    number = run.chosen.number if run.chosen else None
    zoomed = {"zero": False, "nice": True}
    x = {"field": "x", "type": "quantitative", "title": f"{title}, less is better", "scale": zoomed}
    y = {"field": "y", "type": "quantitative", "title": run.metric, "scale": zoomed}
    tip = [
        {"field": "trial"},
        {"field": "state"},
        {"field": "accuracy", "title": run.metric, "format": ".4f"},
        {"field": "x", "title": title, "format": ".4f"},
        {"field": "int8", "title": "int8 operators"},
        {"field": "speedup", "title": "times fp32", "format": ".2f"},
    ]
    best = "at least" if up else "at most"
    layer: list[Spec] = [
        _rule({"y": asked.threshold, "label": f"asked: {best} {asked.threshold:.4f}"}, y, below=up),
        {
            "data": {"values": _front([p for p in points if p["state"] != STATES["pruned"]], up)},
            "mark": {"type": "line", "interpolate": "step-after", "color": "var(--front)", "strokeWidth": 2},
            "encoding": {"x": x, "y": y, "order": {"field": "x", "type": "quantitative"}},
        },
        {"mark": POINT, "encoding": {"x": x, "y": y, "tooltip": tip, **_state_encoding(points)}},
        {
            "data": {"values": [p for p in points if p["trial"] == number]},
            "mark": {"type": "point", "size": 320, "strokeWidth": 2.5, "opacity": 1, "color": "var(--ink)"},
            "encoding": {"x": x, "y": y, "tooltip": tip},
        },
        {
            "data": {"values": [base]},
            "encoding": {"x": x, "y": y},
            "layer": [
                {
                    "mark": {
                        "type": "point",
                        "shape": "diamond",
                        "filled": True,
                        "size": 170,
                        "opacity": 1,
                        "color": "var(--ink)",
                    },
                    "encoding": {"tooltip": [{"field": "label"}, {"field": "y"}]},
                },
                {
                    "mark": {
                        "type": "text",
                        "align": "right",
                        "dx": -11,
                        "baseline": "middle",
                        "fontWeight": "bold",
                        "color": "var(--ink)",
                    },
                    "encoding": {"text": {"field": "label"}},
                },
            ],
        },
    ]
    text = (
        f"{run.metric} against {title} of {_counted(run, points)}, fp32 at {asked.baseline:.4f} and {base['x']:.3f}, "
        f"the goal {best} {asked.threshold:.4f}. The same numbers are in the table of trials."
    )
    return _spec(text, 340, points, layer)


def _placed(run: RunFiles, goal: Goal) -> list[dict[str, Any]]:
    """The evaluated trials with their position on the cost axis."""
    points = []
    for trial in run.shown:
        done = trial.evaluation
        where = position(run, done) if done else None
        if done is None or where is None or trial.state == "failed":
            continue
        points.append(
            {
                "trial": trial.number,
                "x": round(where, 5),
                "accuracy": done.metric("accuracy"),
                "state": STATES[run.state(trial)],
                "loss": goal.loss(done),
                "int8": done.int8_ops,
                "speedup": round(run.gain(done) or 0.0, 3),
            }
        )
    return points


def _clip(points: list[dict[str, Any]], room: float, up: bool, baseline: float) -> None:
    most = max(sorted(p["loss"] for p in points)[len(points) // 2], OUTLIER_LOSS_RATIO * abs(room), 1e-9)
    for p in points:
        loss = min(p["loss"], most)
        p["y"] = baseline - loss if up else baseline + loss


def _front(points: list[dict[str, Any]], up: bool) -> list[dict[str, Any]]:
    front: list[dict[str, Any]] = []
    for p in sorted(points, key=lambda p: (p["x"], -p["y"] if up else p["y"])):
        if not front or (p["y"] > front[-1]["y"] if up else p["y"] < front[-1]["y"]):
            front.append({"x": p["x"], "y": p["y"]})
    return front


def measured_front(run: RunFiles) -> Spec | None:
    """The points with both 95 % intervals, the threshold and the line through them; None without a front."""
    front = run.result.get("front") or {}
    points = front.get("points") or []
    if len(points) <= 1:
        return None
    size = str(front["objectives"][0]) == "size"
    title = "size (kB)" if size else "latency (ms)"
    up, metric = bool(front["higher_is_better"]), str(front["metric"])
    data = [_front_point(point, run, up, size) for point in points]
    zoomed = {"zero": False, "nice": True}
    x = {"field": "x", "type": "quantitative", "title": f"{title}, less is better", "scale": zoomed}
    y = {"field": "y", "type": "quantitative", "title": metric, "scale": zoomed}
    tip = [
        {"field": "label", "title": "point"},
        {"field": "state"},
        {"field": "y", "title": metric, "format": ".4f"},
        {"field": "loss", "format": "+.4f"},
        {"field": "loss_ci95", "title": "loss, 95 %"},
        {"field": "x", "title": title, "format": ".4f"},
        {"field": "speedup", "title": "times fp32", "format": ".2f"},
        {"field": "speedup_ci95", "title": "times fp32, 95 %"},
        {"field": "size", "title": "size (kB)", "format": ",.0f"},
        {"field": "int8", "title": "int8 operators"},
        {"field": "trial"},
    ]
    best = "at least" if up else "at most"
    colours = _state_encoding([d for d in data if not d["fp32"]])
    rule = {"type": "rule", "strokeWidth": 1.5}
    mark = {"type": "point", "opacity": 1, "cursor": "pointer"}
    layer: list[Spec] = [
        _rule({"y": front["threshold"], "label": f"asked: {best} {front['threshold']:.4f}"}, y, below=up),
        {
            "data": {"values": [d for d in data if not d["aside"]]},
            "mark": {"type": "line", "interpolate": "step-after", "color": "var(--front)", "strokeWidth": 2},
            "encoding": {"x": x, "y": y, "order": {"field": "x", "type": "quantitative"}},
        },
        {
            "data": {"values": [d for d in data if d["low"] is not None]},
            "mark": rule,
            "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colours["color"]},
        },
        {
            "data": {"values": [d for d in data if d["left"] < d["right"]]},
            "mark": rule,
            "encoding": {"y": y, "x": {**x, "field": "left"}, "x2": {"field": "right"}, "color": colours["color"]},
        },
        {
            "data": {"values": [d for d in data if not d["fp32"]]},
            "mark": {**mark, "filled": True, "size": 110},
            "encoding": {"x": x, "y": y, "tooltip": tip, **colours},
        },
        {
            "data": {"values": [d for d in data if d["chosen"]]},
            "mark": {**mark, "size": 380, "strokeWidth": 2.5, "color": "var(--ink)"},
            "encoding": {"x": x, "y": y, "tooltip": tip},
        },
        {
            "data": {"values": [d for d in data if d["fp32"]]},
            "mark": {
                "type": "point",
                "shape": "diamond",
                "filled": True,
                "size": 170,
                "color": "var(--ink)",
                "opacity": 1,
            },
            "encoding": {"x": x, "y": y, "tooltip": tip},
        },
        *(
            {
                "data": {"values": [d for d in data if d["fp32"] == fp32]},
                "mark": {
                    "type": "text",
                    "dx": dx,
                    "dy": -11,
                    "align": align,
                    "fontWeight": "bold",
                    "color": "var(--ink)",
                },
                "encoding": {"x": x, "y": y, "text": {"field": "label"}},
            }
            for fp32, align, dx in ((False, "left", 11), (True, "right", -8))
        ),
    ]
    # A layer without data has no extent to draw.
    layer = [part for part in layer if part.get("data") is None or part["data"]["values"]]
    text = (
        f"{metric} against {title} of the {len(points)} points of the measured front, the goal {best} "
        f"{front['threshold']:.4f}. The same numbers are in the table of the front."
    )
    return _spec(text, 340, data, layer)


def _front_point(point: Mapping[str, Any], run: RunFiles, up: bool, size: bool) -> dict[str, Any]:
    """A point as the chart's data. A latency is the ratio to fp32 times fp32's latency, as in the other charts."""
    fp32 = point["role"] == "fp32"
    baseline, interval = float(run.baseline["accuracy"]), point["loss_ci95"]
    scale = float(run.baseline["latency_ms"])
    where = [scale / value for value in (point["speedup"], *point["speedup_ci95"])]
    x, right, left = [point["size_bytes"] / 1000] * 3 if size else where
    ends = None if interval is None or fp32 else [baseline - loss if up else baseline + loss for loss in interval]
    low, high = point["speedup_ci95"]
    return {
        "label": f"{point['point']} {point['role']}".strip(),
        "fp32": fp32,
        "chosen": point["role"] == "chosen",
        "aside": point["dominated"] or point["within_noise"],
        "state": "" if fp32 else STATES["kept" if point["keeps_goal"] else "missed"],
        "x": round(x, 5),
        "left": round(left, 5),
        "right": round(right, 5),
        "y": point["accuracy"],
        "low": min(ends) if ends else None,
        "high": max(ends) if ends else None,
        "loss": point["loss"],
        "loss_ci95": f"{interval[0]:+.4f} to {interval[1]:+.4f}" if interval and not fp32 else "",
        "speedup": round(point["speedup"], 4),
        "speedup_ci95": "" if fp32 else f"{low:.2f} to {high:.2f}",
        "size": point["size_bytes"] / 1000,
        "int8": point["int8_ops"],
        **({} if point["trial"] is None else {"trial": point["trial"]}),
    }


def search(run: RunFiles) -> Spec | None:
    """Each trial's gain and the best gain so far, in the order of the trials; None without a trial."""
    points = [_timed(run, trial) for trial in run.shown]
    if run.goal is None or all(p["gain"] is None for p in points):
        return None
    top = MAX_INTERVAL_RATIO * max(p["gain"] or 0.0 for p in points)
    for p in points:
        p["high"] = min(p["high"], top) if p["high"] else None
    best = _best_so_far(run)
    line = [{"trial": number, "gain": round(gain, 4)} for number, gain in best.items()]
    names = " and ".join(o.name for o in run.goal.objectives)
    last = max(p["trial"] for p in points)
    x = {
        "field": "trial",
        "type": "quantitative",
        "title": "trial",
        "scale": {"domain": [0, last + 1], "nice": False},
        "axis": {"tickMinStep": 1, "format": "d"},
    }
    y = {"field": "gain", "type": "quantitative", "title": f"{names}: times better than fp32", "scale": {"zero": False}}
    tip = [
        {"field": "trial"},
        {"field": "state"},
        {"field": "gain", "title": "times fp32", "format": ".2f"},
        {"field": "note"},
        {"field": "error"},
    ]
    shown = {"x": x, "tooltip": tip, **_state_encoding(points)}
    layer: list[Spec] = [
        _rule({"gain": 1.0, "label": "fp32"}, y, below=False),
        {
            "data": {"values": line},
            "encoding": {"x": x, "y": y},
            "mark": {"type": "line", "interpolate": "step-after", "color": "var(--front)", "strokeWidth": 2},
        },
        {
            "transform": [{"filter": "isValid(datum.gain)"}],
            "mark": {"type": "rule", "color": "var(--front)"},
            "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
        },
        {"transform": [{"filter": "isValid(datum.gain)"}], "mark": POINT, "encoding": {**shown, "y": y}},
        {
            "transform": [{"filter": "!isValid(datum.gain)"}],
            "mark": POINT,
            "encoding": {**shown, "y": {"value": "height"}},
        },
    ]
    text = f"{_counted(run, points)} in their order; "
    text += (
        f"the best that keeps the accuracy is {max(best.values()):.2f} times fp32."
        if best
        else "none keeps the accuracy."
    )
    return _spec(text, 260, points, layer)


def _counted(run: RunFiles, points: Sequence[Any]) -> str:
    """The number of trials of a chart, and of all where the page leaves some out."""
    left = len(run.trials) > len(run.shown)
    return f"{len(points)} of {len(run.trials)} trials" if left else f"{len(points)} trials"


def _timed(run: RunFiles, trial: Trial) -> dict[str, Any]:
    """A trial with its gain and the gain's interval; both None where it was not timed."""
    done = trial.evaluation
    gain = run.gain(done) if done else None
    reach = run.goal.spread(done) if gain and done and run.goal else 0.0
    figures = {"gain": gain, "low": gain / (1 + reach), "high": gain * (1 + reach)} if gain else {}
    rounded = {name: round(figures[name], 4) if figures else None for name in ("low", "high", "gain")}
    return {
        "trial": trial.number,
        "gain": rounded.pop("gain"),
        "state": STATES[run.state(trial)],
        **rounded,
        "note": trial.note,
        "error": trial.error or "",
    }


def _best_so_far(run: RunFiles) -> dict[int, float]:
    """Trial number to the highest gain so far that keeps the accuracy, from the first trial that keeps it."""
    found: dict[int, float] = {}
    best = 0.0
    drawn = {trial.number for trial in run.shown}
    for trial in run.trials:
        before = best
        gain = run.gain(trial.evaluation) if trial.evaluation else None
        if gain and run.state(trial) == "kept":
            best = max(best, gain)
        if best > before or (best and trial.number in drawn):
            found[trial.number] = best
    return found


def measured(rows: Sequence[Operator]) -> bool:
    """Whether the trials determine the loss of at least as many operators as the sensitivity estimate."""
    return sum(o.loss is not None for o in rows) >= sum(o.noise is not None for o in rows)


def price(rows: Sequence[Operator], metric: str) -> tuple[Spec | None, Spec | None]:
    """Charts of the loss and of the saved time of int8 per operator; None where nothing is known."""
    some = [o for o in rows if o.asked]
    if measured(some):
        losses = _bars([(o, o.loss.value, o.loss.reach) for o in some if o.loss], f"loss of {metric}")
    else:
        losses = _bars([(o, o.noise, 0.0) for o in some if o.noise is not None], "noise to signal")
    saved = _bars([(o, o.model_saved, 0.0) for o in some if o.model_saved is not None], "latency saved", True)
    if saved is None:
        saved = _bars([(o, o.saved.value, o.saved.reach) for o in some if o.saved], "latency saved", True)
    return losses, saved


def labels(names: Sequence[str]) -> dict[str, str]:
    """Unique short labels for an axis: names without the parts of their paths that distinguish no two of them."""
    paths = _without_common_root({name: name.split("/") for name in names})
    found = {
        name: _shortest(parts, [other for key, other in paths.items() if key != name]) for name, parts in paths.items()
    }
    return found if len(set(found.values())) == len(found) else {name: name for name in names}


def _without_common_root(paths: dict[str, list[str]]) -> dict[str, list[str]]:
    """Paths without the first part that more than half of them share."""
    roots = Counter(parts[0] for parts in paths.values() if len(parts) > 1)
    root, count = max(roots.items(), key=lambda item: item[1], default=("", 0))
    if 2 * count <= len(paths):
        return paths
    return {name: parts[1:] if len(parts) > 1 and parts[0] == root else parts for name, parts in paths.items()}


def _shortest(parts: list[str], others: list[list[str]]) -> str:
    """Shortest prefix of a path that no other path has; the whole path where there is none."""
    lengths = range(1, len(parts) + 1)
    length = next((k for k in lengths if all(o[:k] != parts[:k] for o in others)), len(parts))
    return "/".join(parts[:length])


def _bars(values: list[tuple[Operator, float, float]], title: str, percent: bool = False) -> Spec | None:
    if not values:
        return None
    keep = {o.name for o, *_ in sorted(values, key=lambda v: -abs(v[1]))[:MAX_OPERATORS]}
    short = labels(sorted(keep))
    # Data are in the order of execution. Vega does not sort them: it would put the names into expressions.
    data = [
        {
            "operator": o.name,
            "label": short[o.name],
            "value": value,
            "low": value - reach,
            "high": value + reach,
            "runs": "in int8" if o.runs == "int8" else "in float",
            "reach": reach,
        }
        for o, value, reach in values
        if o.name in keep
    ]
    layout = "%" if percent else ".2g"
    y = {"field": "label", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 170}}
    x = {"type": "quantitative", "title": title, "axis": {"format": layout, "tickCount": 5}}
    tip = [
        {"field": "operator"},
        {"field": "runs"},
        {"field": "value", "format": ".2%" if percent else ".4g"},
        {"field": "reach", "title": "± 95 %", "format": ".2%" if percent else ".2g"},
    ]
    colours = {"in int8": "var(--int8)", "in float": "var(--float)"}
    present = [name for name in colours if any(d["runs"] == name for d in data)]
    colour = {
        "field": "runs",
        "type": "nominal",
        "title": None,
        "scale": {"domain": present, "range": [colours[name] for name in present]},
    }
    layer: list[Spec] = [
        {
            "mark": {"type": "bar", "height": 12},
            "encoding": {"y": y, "x": {**x, "field": "value"}, "color": colour, "tooltip": tip},
        },
        {
            "transform": [{"filter": "datum.reach > 0"}],
            "mark": {"type": "rule", "color": "var(--ink)", "strokeWidth": 1.5},
            "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}, "tooltip": tip},
        },
    ]
    less = f" (the {MAX_OPERATORS} largest of {len(values)})" if len(values) > MAX_OPERATORS else ""
    return _spec(
        f"{title} by operator{less}. The same numbers are in the table of operators.", 22 * len(data), data, layer
    )


def comparison(results: Sequence[dict[str, Any]]) -> Spec | None:
    """Speed-up of each run of a sweep with its interval; None when no run has one."""
    apart = swept(results)
    values = [
        {
            "run": ", ".join((f"{r.get('run', i)}: {r['strategy']}", r["backend"], *apart[i].values())),
            "speedup": r["speedup"],
            "low": r["speedup_ci95"][0],
            "high": r["speedup_ci95"][1],
            "state": r["status"],
            "accuracy": r["tuned"]["accuracy"],
        }
        for i, r in enumerate(results)
        if r.get("tuned")
    ]
    if not values:
        return None
    y = {"field": "run", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 170}}
    tip = [
        {"field": "run"},
        {"field": "state"},
        *({"field": f, "format": ".2f"} for f in ("speedup", "low", "high")),
        {"field": "accuracy", "format": ".4f"},
    ]
    scale = {"domain": ["met", "missed"], "range": ["var(--kept)", "var(--missed)"]}
    layer: list[Spec] = [
        {
            "mark": {"type": "rule", "strokeWidth": 2, "color": "var(--ink)"},
            "encoding": {
                "y": y,
                "x": {"field": "low", "type": "quantitative", "scale": {"zero": False}},
                "x2": {"field": "high"},
            },
        },
        {
            "mark": {"type": "point", "filled": True, "size": 130},
            "encoding": {
                "y": y,
                "x": {"field": "speedup", "type": "quantitative", "title": "times as fast as fp32"},
                "color": {"field": "state", "title": None, "scale": scale},
                "tooltip": tip,
                "shape": {
                    "field": "state",
                    "title": None,
                    "scale": {"domain": ["met", "missed"], "range": ["circle", "triangle-up"]},
                },
            },
        },
        {
            "data": {"values": [{"one": 1}]},
            "mark": {"type": "rule", "strokeDash": [6, 4], "color": "var(--goal)"},
            "encoding": {"x": {"datum": 1}},
        },
    ]
    return _spec(
        "Speed-up of each run with its 95 % interval; the dashed line is fp32.", 40 * len(values) + 20, values, layer
    )
