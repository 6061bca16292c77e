"""What a SigOpt API server keeps and answers, after the recorded API; nothing of the driver in the package."""

import base64
import random
import time

import sigopt_standin_rules as rules

NOT_FOUND = "The requested resource could not be found"


class Refused(Exception):
    def __init__(self, status, message, **more):
        self.status, self.body = status, {"message": message, "status": status, **more}


class Api:
    """Tokens, projects, experiments, suggestions and observations of two clients."""

    def __init__(self):
        self.tokens = {"secret-token-123456": "1", "other-token-654321": "2"}
        self.readers, self.developers = set(), set()
        """Tokens of members who may only read, though their tokens say they may write; development tokens."""
        self.projects = {"1": {"nc-demo": _project("1", "nc-demo")}, "2": {}}
        self.experiments, self.suggestions, self.observations = {}, {}, {}
        self._random = random.Random(0)

    def _client(self, authorization):
        header = authorization or ""
        if not header.startswith("Basic "):
            raise Refused(401, "This endpoint requires authentication.")
        token = base64.b64decode(header[6:]).decode().partition(":")[0]
        if token not in self.tokens:
            raise Refused(403, "This endpoint requires a valid API token.", token_status="revoked")
        return token, self.tokens[token]

    def route(self, request, authorization):
        try:
            return self._route(request, authorization)
        except rules.Bad as error:
            raise Refused(400, str(error)) from None

    def _route(self, request, authorization):
        parts = request.path.strip("/").split("/")[1:]
        token, client = self._client(authorization)
        if token in self.readers and request.method != "GET":
            raise Refused(403, "You do not have permission to do that.")
        if parts == ["tokens", "self"]:
            return {
                "all_experiments": True,
                "client": client,
                "development": token in self.developers,
                "experiment": None,
                "expires": None,
                "lease_length": None,
                "object": "token",
                "organization": "1",
                "permissions": "write",
                "scope": "all_endpoints",
                "token": token,
                "token_type": "guest",
                "training_run": None,
                "user": None,
            }
        if parts[0] == "clients":
            return self._project_request(request, client, parts)
        if parts == ["experiments"] and request.method == "POST":
            return self._create(request.body, client)
        if parts[0] != "experiments" or not parts[1].isdigit():
            raise Refused(404, f"Endpoint not found: {request.path}")
        found = self.experiments.get(parts[1])
        if found is None or found["client"] != client:
            raise Refused(404, NOT_FOUND)
        return self._experiment_request(request, found, parts[2:])

    def _project_request(self, request, client, parts):
        if parts[1] != client:
            raise Refused(404, NOT_FOUND)
        projects = self.projects[client]
        if request.method == "POST" and len(parts) == 3:
            rules.project(request.body)
            name = request.body["id"]
            if name in projects:
                raise Refused(409, f"The experiment project with id `{name}` already exists.")
            projects[name] = _project(client, name)
            return projects[name]
        if parts[3] not in projects:
            raise Refused(404, NOT_FOUND)
        if parts[4:] == ["experiments"]:
            return _page(
                [self._shown(n) for n, e in self.experiments.items() if e["project"] == parts[3]], request.body
            )
        return projects[parts[3]]

    def _create(self, body, client):
        rules.experiment(body)
        if body.get("project") is not None and body["project"] not in self.projects[client]:
            raise Refused(400, f"Could not assign to project `{body['project']}`, the project does not exist.")
        metrics = [
            {
                "name": m["name"],
                "object": "metric",
                "objective": m.get("objective", "maximize"),
                "strategy": m.get("strategy", "optimize"),
                "threshold": m.get("threshold"),
            }
            for m in body.get("metrics", [{"name": None}])
        ]
        number = str(len(self.experiments) + 1)
        self.experiments[number] = {
            "client": client,
            "conditionals": [],
            "created": _now(),
            "development": False,
            "id": number,
            "linear_constraints": [],
            "metadata": body.get("metadata"),
            "metrics": metrics,
            "name": body["name"],
            "num_solutions": None,
            "object": "experiment",
            "observation_budget": body.get("observation_budget"),
            "parallel_bandwidth": body.get("parallel_bandwidth"),
            "parameters": sorted(map(_parameter, body["parameters"]), key=lambda p: p["name"]),
            "project": body.get("project"),
            "runs_only": False,
            "state": "active",
            "type": "offline",
            "updated": _now(),
            "user": None,
        }
        return self._shown(number)

    def _experiment_request(self, request, found, parts):
        number, method, body = found["id"], request.method, request.body
        mine = {
            "suggestions": [s for s in self.suggestions.values() if s["experiment"] == number],
            "observations": [o for o in self.observations.values() if o["experiment"] == number],
        }
        if not parts:
            if method == "PUT":
                rules.positive(body, "observation_budget")
                rules.positive(body, "parallel_bandwidth")
                several = sum(m["strategy"] == "optimize" for m in found["metrics"]) > 1
                if several and "observation_budget" in body:
                    raise Refused(
                        400,
                        "`observation_budget` cannot be updated for experiments with more than one optimized metric.",
                    )
                found.update(body)
            if method == "DELETE":
                found["state"] = "deleted"
                return {}
            return self._shown(number)
        if parts == ["best_assignments"]:
            best = self._best(number)
            return _page(
                [
                    {
                        "assignments": o["assignments"],
                        "id": o["id"],
                        "metadata": None,
                        "object": "best_assignments",
                        "values": o["values"],
                    }
                    for o in best
                ],
                {},
            )
        if method == "GET" and len(parts) == 1:
            return _page([x for x in mine[parts[0]] if body.get("state") in (None, x.get("state"))], body)
        if method == "DELETE" and parts == ["suggestions"]:
            for suggestion in mine["suggestions"]:
                if suggestion["state"] == "open":
                    suggestion.update(state="closed", deleted=True)
            return {}
        if method == "POST" and parts == ["suggestions"]:
            if all(p["type"] == "categorical" for p in found["parameters"]):
                raise Refused(500, "enumerating all combinations")
            chosen = {p["name"]: self._draw(p) for p in found["parameters"]}
            suggestion = {
                "assignments": chosen,
                "created": _now(),
                "deleted": False,
                "experiment": number,
                "id": str(len(self.suggestions) + 1),
                "metadata": body.get("metadata"),
                "object": "suggestion",
                "state": "open",
            }
            self.suggestions[suggestion["id"]] = suggestion
            return {**suggestion, "deleted": None}
        if method == "POST" and parts == ["observations"]:
            return self._observe(request, found)
        raise Refused(404, f"Endpoint not found: {request.path}")

    def _draw(self, parameter):
        if parameter["type"] == "categorical":
            return self._random.choice([v["name"] for v in parameter["categorical_values"]])
        return self._random.randint(int(parameter["bounds"]["min"]), int(parameter["bounds"]["max"]))

    def _observe(self, request, found):
        body, number = request.body, found["id"]
        rules.observation(body)
        suggestion = body.get("suggestion")
        if suggestion is not None:
            if suggestion not in self.suggestions or self.suggestions[suggestion]["experiment"] != number:
                raise Refused(400, f"No suggestion: {suggestion} for experiment: {number}")
            chosen = self.suggestions[suggestion]["assignments"]
        else:
            chosen = body["assignments"]
            rules.assignments(chosen, found["parameters"])
        rules.values(body, found["metrics"])
        values = body.get("values") or []
        observation = {
            "assignments": chosen,
            "created": _now(),
            "experiment": number,
            "failed": bool(body.get("failed")),
            "id": str(len(self.observations) + 1),
            "metadata": body.get("metadata"),
            "object": "observation",
            "suggestion": suggestion,
            "values": [
                {
                    "name": v.get("name"),
                    "object": "metric_evaluation",
                    "value": v["value"],
                    "value_stddev": v.get("value_stddev"),
                }
                for v in values
            ],
        }
        self.observations[observation["id"]] = observation
        if suggestion is not None:
            self.suggestions[suggestion]["state"] = "closed"
        return observation

    def _best(self, number):
        metrics = self.experiments[number]["metrics"]
        optimized = next((m for m in metrics if m["strategy"] == "optimize"), None)
        sign = -1 if optimized and optimized["objective"] == "maximize" else 1
        good = []
        for o in self.observations.values():
            found = {v["name"]: v["value"] for v in o["values"]}
            if (
                o["experiment"] == number
                and found
                and all(
                    (found[m["name"]] >= m["threshold"]) == (m["objective"] == "maximize")
                    for m in metrics
                    if m["strategy"] == "constraint"
                )
            ):
                good.append((sign * found[optimized["name"]] if optimized else 0, int(o["id"]), o))
        return [min(good)[2]] if good else []

    def _shown(self, number):
        done = [o for o in self.observations.values() if o["experiment"] == number]
        best = self._best(number)
        return {
            **self.experiments[number],
            "progress": {
                "best_observation": {**best[0], "metadata": None} if best else None,
                "first_observation": done[0] if done else None,
                "last_observation": done[-1] if done else None,
                "object": "progress",
                "observation_budget_consumed": float(len(done)),
                "observation_count": len(done),
            },
        }


def _now():
    return int(time.time())


def _project(client, name):
    return {
        "client": client,
        "created": _now(),
        "deleted": False,
        "experiment_count": 0,
        "id": name,
        "metadata": None,
        "name": name,
        "object": "project",
        "training_run_count": 0,
        "updated": _now(),
        "user": None,
    }


def _parameter(body):
    bounds = body.get("bounds")
    if bounds is not None:
        bounds = {"max": float(bounds["max"]), "min": float(bounds["min"]), "object": "bounds"}
    values = body.get("categorical_values")
    if values is not None:
        values = [{"enum_index": i, "name": v, "object": "categorical_value"} for i, v in enumerate(values, 1)]
    return {
        "bounds": bounds,
        "categorical_values": values,
        "conditions": {},
        "default_value": None,
        "name": body["name"],
        "object": "parameter",
        "prior": None,
        "transformation": None,
        "type": body["type"],
    }


def _page(items, body):
    rules.limit(body)
    newest = sorted(items, key=lambda item: -int(item["id"]))
    if body.get("before"):
        newest = [item for item in newest if int(item["id"]) < int(body["before"])]
    limit = int(body.get("limit", 1000))
    page = newest[:limit]
    before = page[-1]["id"] if len(newest) > limit else None
    return {
        "count": len(items),
        "data": page,
        "object": "pagination",
        "paging": {"after": page[0]["id"] if page else None, "before": before},
    }
