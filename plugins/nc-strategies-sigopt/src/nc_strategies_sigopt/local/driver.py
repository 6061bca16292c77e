"""A driver for `sigopt.Connection` that answers as the server does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nc_strategies_sigopt.client import part
from nc_strategies_sigopt.lines import Lines
from nc_strategies_sigopt.local import sampler, validation
from nc_strategies_sigopt.local.validation import Json, Refused

CLIENT = "1"
TOKEN: Json = {
    "all_experiments": True,
    "client": CLIENT,
    "development": False,
    "experiment": None,
    "expires": None,
    "lease_length": None,
    "object": "token",
    "organization": "1",
    "permissions": "write",
    "scope": "all_endpoints",
    "token": "",
    "token_type": "local",
    "training_run": None,
    "user": None,
}
NOT_FOUND = "The requested resource could not be found"


class LocalDriver:
    """Projects, experiments, suggestions and observations, as a SigOpt server keeps them.

    Args:
        path: File that keeps them, append-only; a driver opened on it again knows all that was answered before. None
            keeps them in memory.
        seed: Seed of the suggestions of experiments created here.

    Example:
        >>> driver = LocalDriver()
        >>> driver.request("GET", ["tokens", "self"], {}, None)["client"]
        '1'
    """

    def __init__(self, path: Path | None = None, seed: int = 0) -> None:
        self._lines = Lines(path)
        self._seed = seed
        self._projects: dict[str, Json] = {}
        self._experiments: dict[str, Json] = {}
        self._seeds: dict[str, int] = {}
        self._suggestions: dict[str, Json] = {}
        self._observations: dict[str, Json] = {}
        self._held: dict[str, dict[str, sampler.Held]] = {}
        for record in self._lines.records:
            self._apply(record)

    def request(self, method: str, path: list[Any], data: Any, headers: Any) -> Json | None:
        """Answer a request.

        Args:
            method: The HTTP method.
            path: Parts of the path behind the version.
            data: The request's JSON, or its parameters.
            headers: Not used.

        Raises:
            ApiException: the server would refuse it, with the server's status and message.
        """
        api_exception, as_json = part("exception").ApiException, part("objects").ApiObject.as_json
        try:
            # What passes here is what would pass over a wire: plain JSON without NaN.
            plain = json.loads(json.dumps(as_json(data or {}), allow_nan=False))
        except ValueError as error:
            raise api_exception({"message": f"Invalid json: {error}", "status": 400}, 400) from None
        try:
            return self._route(method.upper(), [str(part) for part in path], plain)
        except Refused as error:
            raise api_exception({"message": error.message, "status": error.status}, error.status) from None

    def _route(self, method: str, path: list[str], data: Json) -> Json | None:
        match path:
            case ["tokens", "self"] if method == "GET":
                return dict(TOKEN)
            case ["clients", client, "projects", *rest]:
                if client != CLIENT:
                    raise Refused(404, NOT_FOUND)
                return self._project(method, rest, data)
            case ["experiments"] if method == "POST":
                return self._create(data)
            case ["experiments", number, *rest] if number.isdigit():
                experiment = self._experiments.get(number)
                if experiment is None:
                    raise Refused(404, NOT_FOUND)
                return self._experiment(method, experiment, rest, data)
        raise Refused(404, f"Endpoint not found: /v1/{'/'.join(path)}")

    def _project(self, method: str, rest: list[str], data: Json) -> Json:
        match method, rest:
            case "POST", []:
                name, title = validation.project(data)
                if name in self._projects:
                    raise Refused(409, f"The experiment project with id `{name}` already exists.")
                now = int(time.time())
                return self._keep(
                    "project",
                    {
                        "client": CLIENT,
                        "created": now,
                        "deleted": False,
                        "experiment_count": 0,
                        "id": name,
                        "name": title,
                        "metadata": None,
                        "object": "project",
                        "training_run_count": 0,
                        "updated": now,
                        "user": None,
                    },
                )
            case "GET", [name] if name in self._projects:
                return self._projects[name]
            case "GET", [name, "experiments"] if name in self._projects:
                return _pages([self._shown(e) for e in self._experiments.values() if e["project"] == name], data)
        raise Refused(404, NOT_FOUND)

    def _create(self, data: Json) -> Json:
        checked, project = validation.experiment(data), data.get("project")
        if project is not None and validation.project_id(project) not in self._projects:
            raise Refused(400, f"Could not assign to project `{project}`, the project does not exist.")
        now = int(time.time())
        made = {
            "client": CLIENT,
            "conditionals": [],
            "created": now,
            "development": False,
            "id": str(len(self._experiments) + 1),
            "linear_constraints": [],
            **checked,
            "num_solutions": None,
            "object": "experiment",
            "project": project,
            "runs_only": False,
            "state": "active",
            "type": "offline",
            "updated": now,
            "user": None,
        }
        self._keep("experiment", made, seed=self._seed)
        return self._shown(made)

    def _experiment(self, method: str, experiment: Json, rest: list[str], data: Json) -> Json:
        answers: dict[tuple[str, ...], Callable[[], Json]] = {
            ("GET",): lambda: self._shown(experiment),
            ("PUT",): lambda: self._shown(self._update(experiment, data)),
            ("DELETE",): lambda: self._update(experiment, {"state": "deleted"}) and {},
            ("POST", "suggestions"): lambda: self._suggest(experiment, data),
            ("GET", "suggestions"): lambda: _pages(
                [s for s in self._of(self._suggestions, experiment) if data.get("state") in (None, s["state"])], data
            ),
            ("DELETE", "suggestions"): lambda: self._keep("close", {"experiment": experiment["id"]}) and {},
            ("POST", "observations"): lambda: self._observe(experiment, data),
            ("GET", "observations"): lambda: _pages(self._of(self._observations, experiment), data),
            ("GET", "best_assignments"): lambda: self._best(experiment),
        }
        answer = answers.get((method, *rest))
        if answer is None:
            raise Refused(404, f"Endpoint not found: /v1/experiments/{experiment['id']}/{'/'.join(rest)}")
        return answer()

    def _update(self, experiment: Json, data: Json) -> Json:
        changes = validation.update(data)
        self._keep("update", {"experiment": experiment["id"], "changes": changes})
        return experiment

    def _suggest(self, experiment: Json, data: Json) -> Json:
        earlier = self._of(self._suggestions, experiment)
        assignments = sampler.suggest(
            experiment,
            self._of(self._observations, experiment),
            [s for s in earlier if s["state"] == "open"],
            self._seeds[experiment["id"]],
            len(earlier),
            self._held.setdefault(experiment["id"], {}),
        )
        made = self._keep(
            "suggestion",
            {
                "assignments": assignments,
                "created": int(time.time()),
                "deleted": False,
                "experiment": experiment["id"],
                "id": str(len(self._suggestions) + 1),
                "metadata": validation.metadata(data.get("metadata")),
                "object": "suggestion",
                "state": "open",
            },
        )
        return {**made, "deleted": None}

    def _observe(self, experiment: Json, data: Json) -> Json:
        number = validation.observation(data)
        if number is not None:
            suggestion = self._suggestions.get(str(number))
            if suggestion is None or suggestion["experiment"] != experiment["id"]:
                raise Refused(400, f"No suggestion: {number} for experiment: {experiment['id']}")
            assignments = suggestion["assignments"]
        else:
            assignments = validation.assignments(data["assignments"], experiment["parameters"])
        return self._keep(
            "observation",
            {
                "assignments": assignments,
                "created": int(time.time()),
                "experiment": experiment["id"],
                "failed": bool(data.get("failed")),
                "id": str(len(self._observations) + 1),
                "metadata": validation.metadata(data.get("metadata")),
                "object": "observation",
                "suggestion": None if number is None else str(number),
                "values": validation.values(data, experiment["metrics"]),
            },
        )

    def _best(self, experiment: Json) -> Json:
        points = [
            (point, one)
            for one in self._of(self._observations, experiment)
            if (point := _feasible_point(experiment["metrics"], one)) is not None
        ]
        best = [
            (p, o)
            for p, o in points
            if not any(q != p and all(a <= b for a, b in zip(q, p, strict=True)) for q, _ in points)
        ]
        first = dict(reversed(best))
        return _pages(
            [
                {
                    "assignments": o["assignments"],
                    "id": o["id"],
                    "metadata": None,
                    "object": "best_assignments",
                    "values": o["values"],
                }
                for o in first.values()
            ],
            {},
        )

    def _shown(self, experiment: Json) -> Json:
        done = self._of(self._observations, experiment)
        best = {o["id"] for o in self._best(experiment)["data"]}
        first = next((o for o in done if o["id"] in best), None)
        return {
            **experiment,
            "progress": {
                "best_observation": {**first, "metadata": None} if first else None,
                "first_observation": done[0] if done else None,
                "last_observation": done[-1] if done else None,
                "object": "progress",
                "observation_budget_consumed": float(len(done)),
                "observation_count": len(done),
            },
        }

    @staticmethod
    def _of(items: Mapping[str, Json], experiment: Json) -> list[Json]:
        return [item for item in items.values() if item["experiment"] == experiment["id"]]

    def _keep(self, kind: str, item: Json, **more: Any) -> Json:
        record = {"kind": kind, "item": item, **more}
        self._lines.append(record)
        self._apply(record)
        return item

    def _apply(self, record: Json) -> None:
        kind, item = record["kind"], record["item"]
        if kind == "project":
            self._projects[item["id"]] = item
        elif kind == "experiment":
            self._experiments[item["id"]] = item
            self._seeds[item["id"]] = int(record["seed"])
        elif kind == "update":
            self._experiments[item["experiment"]].update(item["changes"])
        elif kind == "suggestion":
            self._suggestions[item["id"]] = item
        elif kind == "observation":
            self._observations[item["id"]] = item
            if item["suggestion"] is not None:
                self._suggestions[item["suggestion"]]["state"] = "closed"
        elif kind == "close":
            for suggestion in self._of(self._suggestions, self._experiments[item["experiment"]]):
                if suggestion["state"] == "open":
                    suggestion.update(state="closed", deleted=True)


def _feasible_point(metrics: list[Json], observation: Json) -> tuple[float, ...] | None:
    """An observation's optimized values, each to be minimized; None where it failed or broke a constraint."""
    found = {v["name"]: v["value"] for v in observation["values"]}
    if not found:
        return None
    if not all(sampler.violation(m, found[m["name"]]) <= 0 for m in metrics if m["strategy"] == "constraint"):
        return None
    return tuple(
        found[m["name"]] * (1 if m["objective"] == "minimize" else -1) for m in metrics if m["strategy"] == "optimize"
    )


def _pages(items: list[Json], data: Json) -> Json:
    """All items, the newest first, or the page that was asked for."""
    newest = sorted(items, key=lambda item: -int(item["id"]))
    size = validation.page_size(data)
    older = [item for item in newest if not data.get("before") or int(item["id"]) < int(data["before"])]
    page = older[:size]
    return {
        "count": len(newest),
        "data": page,
        "object": "pagination",
        "paging": {"after": page[0]["id"] if page else None, "before": page[-1]["id"] if len(older) > size else None},
    }
