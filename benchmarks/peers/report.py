"""The table and the claims, from what was measured; pure functions of the results file's contents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]
DEFAULT = "onnxruntime"
"""The tool that quantizes once with defaults: where it meets the goal there is nothing to search for."""
OTHERS = (DEFAULT, "onnxruntime-u8s8", "nncf", "inc")
FASTER = {"inc": 10.0, "nncf": 5.0}
"""Times as fast to the goal as a peer, at least."""
LATENCY = 1.02
HEADER = (
    "tool",
    "goal",
    "top1",
    "loss",
    "to goal (s)",
    "before search (s)",
    "process (s)",
    "evaluations",
    "latency / fp32 (95 %)",
)


def threshold(results: Results, case: str) -> float:
    """Lowest accuracy that meets the goal, from the judge's own figure for fp32."""
    return float(results["cases"][case]["judged"]["accuracy"]["fp32"] * (1 - results["terms"]["tolerable_loss"]))


def status(results: Results, case: str, tool: str) -> str:
    """How a tool ended: ``met``, ``missed``, ``capped``, ``failed``, ``refuted``, ``refused`` or ``not run``.

    Met means: within the limit, a model was handed over, and the judge finds it accurate enough. Refuted: the judge
    does not. Refused: the judge's engine does not open the model.
    """
    part = results["cases"][case]
    cell = part["cells"].get(tool)
    if cell is None:
        return "not run"
    if cell["model"] is None:
        return "missed" if cell["ended"] == "finished" else str(cell["ended"])
    if tool in part["judged"]["refused"]:
        return "refused"
    accurate = part["judged"]["accuracy"][tool] >= threshold(results, case)
    if cell["goal_s"] is None and "@" not in tool:
        return "missed"
    return "met" if accurate else "refuted"


def seconds_to_goal(results: Results, case: str, tool: str) -> tuple[float, bool]:
    """Seconds from process start to the first model that met the goal, and whether that is a lower bound only.

    A tool that ended without meeting the goal never does: infinity, exactly.
    """
    cell = results["cases"][case]["cells"][tool]
    if status(results, case, tool) == "met" and cell["goal_s"] is not None:
        return float(cell["goal_s"]), False
    if cell["ended"] == "capped":
        return float(results["terms"]["limit"]), True
    return (0.0, True) if cell["ended"] == "failed" else (float("inf"), False)


@dataclass(frozen=True)
class Claim:
    """Something said of a strategy.

    Args:
        strategy: Which.
        text: What.
        cases: What each case shows: ``True``, ``False`` or ``None`` (cannot be told), and the figures.
    """

    strategy: str
    text: str
    cases: dict[str, tuple[bool | None, str]]

    @property
    def holds(self) -> bool | None:
        """Whether it holds in every case; None when that is not known, or no case speaks of it."""
        seen = [held for held, _ in self.cases.values()]
        if False in seen:
            return False
        return None if None in seen or not seen else True


def claims(results: Results) -> list[Claim]:
    """What is claimed, strategy by strategy, checked."""
    cases = results["cases"]
    tools = {tool for part in cases.values() for tool in part["cells"]}
    found = []
    for strategy in sorted({tool.partition("@")[0] for tool in tools} - set(OTHERS)):
        found.append(Claim(strategy, "meets every goal that a peer meets", _keep(results, strategy, _goal)))
        for peer, factor in FASTER.items():
            found.append(
                Claim(
                    strategy,
                    f"time to goal at most 1/{factor:g} of {peer}'s, where default int8 misses it",
                    {c: v for c in cases if (v := _time(results, c, strategy, peer, factor)) is not None},
                )
            )
        found.append(
            Claim(
                strategy,
                f"final latency at most {LATENCY:g} x that of the fastest peer's accurate model",
                _keep(results, strategy, _latency),
            )
        )
    return found


def _keep(results: Results, strategy: str, check: Any) -> dict[str, tuple[bool | None, str]]:
    return {c: v for c in results["cases"] if (v := check(results, c, strategy)) is not None}


def _runs(results: Results, case: str, strategy: str) -> list[str]:
    return [t for t in results["cases"][case]["cells"] if t.partition("@")[0] == strategy]


def _accurate(results: Results, case: str, tools: list[str]) -> list[str]:
    return [t for t in tools if status(results, case, t) == "met"]


def _peers(results: Results, case: str) -> list[str]:
    return _accurate(results, case, [t for t in OTHERS if t in results["cases"][case]["cells"]])


def _goal(results: Results, case: str, strategy: str) -> tuple[bool | None, str] | None:
    others, runs = _peers(results, case), _runs(results, case, strategy)
    if not others:
        return None
    if not runs:
        return None, "not run"
    met = _accurate(results, case, runs)
    return bool(met), f"met by {', '.join(met)}" if met else f"missed; met by {', '.join(others)}"


def _time(results: Results, case: str, strategy: str, peer: str, factor: float) -> tuple[bool | None, str] | None:
    cells = results["cases"][case]["cells"]
    if DEFAULT not in cells or status(results, case, DEFAULT) == "met" or peer not in cells:
        return None
    if strategy not in cells:
        return None, "not run"
    theirs, bound = seconds_to_goal(results, case, peer)
    if cells[peer]["ended"] == "failed":
        return None, f"{peer} failed"
    if status(results, case, strategy) != "met":
        return (None if status(results, case, peer) != "met" else False), f"{strategy} misses the goal"
    ours, _ = seconds_to_goal(results, case, strategy)
    if theirs == float("inf"):
        return True, f"{ours:.1f} s; {peer} gave up after {cells[peer]['wall_s']:.0f} s"
    share = theirs / ours
    text = f"{ours:.1f} s to {'more than ' if bound else ''}{theirs:.1f} s: {share:.1f} times"
    return (True if share >= factor else None if bound else False), text


def _latency(results: Results, case: str, strategy: str) -> tuple[bool | None, str] | None:
    others = _peers(results, case)
    if not others:
        return None
    runs = _accurate(results, case, _runs(results, case, strategy))
    if not runs:
        return None, "no accurate model of ours"
    ratio = results["cases"][case]["judged"]["ratio"]
    peer, ours = (min(names, key=lambda t: ratio[t]["fp32"][0]) for names in (others, runs))
    value, low, high = ratio[ours][peer]
    # Above the line with an interval that reaches below it: the timing does not tell.
    held = True if value <= LATENCY else None if low <= LATENCY else False
    return held, f"{ours} is {value:.3f} ({low:.3f} to {high:.3f}) of {peer}"


def markdown(results: Results) -> str:
    """Everything as Markdown: terms, a table a case, the claims."""
    terms = results["terms"]
    lines = [
        f"{terms['samples']} evaluation samples, {terms['calibration_samples']} to calibrate with, "
        f"{terms['tolerable_loss']:.1%} relative loss of top-1 tolerated, evaluation batches of "
        f"{terms['batch_size']}, one thread, {terms['limit']:g} s a tool and case.",
        "",
        f"{results['machine']}; {', '.join(f'{k} {v}' for k, v in sorted(results['versions'].items()))}.",
        "",
    ]
    for case in results["cases"]:
        lines += [f"### {case}", "", *table(results, case), ""]
    lines += ["### Claims", "", "| strategy | claim | holds | cases |", "| --- | --- | --- | --- |"]
    words = {True: "yes", False: "**no**", None: "not shown"}
    for claim in claims(results):
        shown = "; ".join(
            f"{case}: {text}{'' if held else ' (' + words[held] + ')'}" for case, (held, text) in claim.cases.items()
        )
        lines.append(f"| {claim.strategy} | {claim.text} | {words[claim.holds]} | {shown or 'no case speaks of it'} |")
    return "\n".join(lines) + "\n"


def table(results: Results, case: str) -> list[str]:
    """One case: a row for fp32 and one a tool."""
    part = results["cases"][case]
    judged = part["judged"]
    fp32 = judged["accuracy"]["fp32"]
    rows = [
        HEADER,
        ("---",) * len(HEADER),
        ("fp32", "", f"{fp32:.4f}", "", "", "", "", "", f"1 ({judged['latency_ms']['fp32']:.2f} ms)"),
    ]
    for tool, cell in part["cells"].items():
        accuracy = judged["accuracy"].get(tool)
        partial = f" + {cell['partial']} partial" if cell["partial"] else ""
        goal, word = cell["goal_s"], status(results, case, tool)
        rows.append(
            (
                tool,
                word,
                "" if accuracy is None else f"{accuracy:.4f}",
                "" if accuracy is None else f"{(fp32 - accuracy) / fp32:+.2%}",
                f"{goal:.1f}"
                if goal is not None and word == "met"
                else f"> {results['terms']['limit']:g}"
                if word == "capped"
                else "",
                "" if cell["prepare_s"] is None else f"{cell['prepare_s']:.1f}",
                f"{cell['wall_s']:.1f}",
                f"{cell['evaluations']}{partial}",
                "" if accuracy is None else "{:.3f} ({:.3f}-{:.3f})".format(*judged["ratio"][tool]["fp32"]),
            )
        )
    return [f"| {' | '.join(row)} |" for row in rows]
