"""What a real SigOpt server answered: requests one after the other, each with the status and part of the message.

Recorded from the open-source ``sigopt-server`` (API, queue workers, PostgreSQL, Redis) with the client 8.8.3. ``{e}``
stands for the experiment that the row "create experiment" makes, ``{s}`` for its first suggestion.
"""

from typing import NamedTuple

PROJECT = {"id": "probe", "name": "probe"}
PARAMETERS = [
    {"name": "g", "type": "categorical", "categorical_values": ["a", "b"]},
    {"name": "k", "type": "int", "bounds": {"min": 0, "max": 4}},
]
LATENCY = {"name": "lat", "objective": "minimize", "strategy": "optimize"}
ACCURACY = {"name": "acc", "objective": "maximize", "strategy": "constraint", "threshold": 0.9}
EXPERIMENT = {
    "name": "n",
    "project": "probe",
    "parameters": PARAMETERS,
    "metrics": [ACCURACY, LATENCY],
    "observation_budget": 10,
    "parallel_bandwidth": 1,
}
VALUES = [{"name": "acc", "value": 0.95}, {"name": "lat", "value": 0.5, "value_stddev": 0.1}]
CHOSEN = {"g": "a", "k": 1}
NOT_FOUND = "The requested resource could not be found"


class Row(NamedTuple):
    """A request, and what came of it."""

    name: str
    method: str
    path: str
    body: dict
    status: int
    message: str = ""


def _create(label, status, message="", /, without=(), **changes):
    body = {key: value for key, value in {**EXPERIMENT, **changes}.items() if key not in without}
    return Row(f"create: {label}", "POST", "experiments", body, status, message)


def _observe(label, status, message="", /, **body):
    return Row(f"observe: {label}", "POST", "experiments/{e}/observations", body, status, message)


def _lat(**changes):
    return [VALUES[0], {**VALUES[1], **changes}]


def _numeric(low, high):
    return [PARAMETERS[0], {"name": "k", "type": "int", "bounds": {"min": low, "max": high}}]


def _category(*values):
    return [{"name": "g", "type": "categorical", "categorical_values": list(values)}, PARAMETERS[1]]


def _optimized(*names, **more):
    return [{**LATENCY, "name": name, **more} for name in names]


def _constraints(count):
    return [*({**ACCURACY, "name": f"c{i}"} for i in range(count)), LATENCY]


UNNEEDED = "is required for an experiment with"
ROWS = (
    Row("token", "GET", "tokens/self", {}, 200),
    Row("create project", "POST", "clients/1/projects", PROJECT, 200),
    Row("create project again", "POST", "clients/1/projects", PROJECT, 409, "project with id `probe` already exists."),
    Row(
        "create project without name",
        "POST",
        "clients/1/projects",
        {"id": "x"},
        400,
        'Missing required json key "name"',
    ),
    Row("create project bad id", "POST", "clients/1/projects", {**PROJECT, "id": "Bad_Upper"}, 400, "does not match"),
    Row(
        "create project long id",
        "POST",
        "clients/1/projects",
        {**PROJECT, "id": "x" * 33},
        400,
        "The length of .id must be less than or equal to 32",
    ),
    Row("get project", "GET", "clients/1/projects/probe", {}, 200),
    Row("get unknown project", "GET", "clients/1/projects/nope", {}, 404, NOT_FOUND),
    Row("unknown client", "GET", "clients/77/projects/nope", {}, 404, NOT_FOUND),
    Row("create experiment", "POST", "experiments", EXPERIMENT, 200),
    Row("get experiment", "GET", "experiments/{e}", {}, 200),
    _create("name 100 chars", 200, name="n" * 100),
    _create("name 101 chars", 400, "The length of .name must be less than or equal to 100", name="n" * 101),
    _create("name empty", 400, "The length of .name must be greater than or equal to 1", name=""),
    _create("name missing", 400, 'Missing required json key "name"', without=("name",)),
    _create("name unicode", 200, name="größe 量"),
    _create("project unknown", 400, "Could not assign to project `nope`, the project does not exist.", project="nope"),
    _create("project missing", 200, without=("project",)),
    _create("project bad id", 400, "does not match the regular expression", project="Bad_Upper"),
    _create("no parameters", 400, "Experiments must have at least one parameter.", parameters=[]),
    _create("no metrics key", 200, without=("metrics",)),
    _create("empty metrics", 400, "The `metrics` list must contain a metric", metrics=[]),
    _create("1 categorical value", 400, "should have at least 2 categorical values.", parameters=_category("a")),
    _create("dup categorical", 400, "Duplicate categorical value name: a", parameters=_category("a", "a")),
    _create("categorical value 50", 200, parameters=_category("a", "b" * 50)),
    _create("categorical value 51", 400, "must be less than 50 characters", parameters=_category("a", "b" * 51)),
    _create("categorical value empty", 400, "Invalid name: cannot be empty", parameters=_category("a", "")),
    _create(
        "parameter name 101",
        400,
        "The length of .parameters[1].name must be less than or equal to 100",
        parameters=[PARAMETERS[0], {**PARAMETERS[1], "name": "k" * 101}],
    ),
    _create("parameter name with /", 200, parameters=[PARAMETERS[0], {**PARAMETERS[1], "name": "a/b"}]),
    _create("dup parameter", 400, "Duplicate parameter name: k", parameters=[PARAMETERS[1], PARAMETERS[1]]),
    _create("int bounds equal", 400, "does not exceed min length", parameters=_numeric(0, 0)),
    _create("int bounds reversed", 400, "max must be greater than min", parameters=_numeric(3, 1)),
    _create("int bounds float", 400, "Invalid type for min: 0.5 - expected type integer", parameters=_numeric(0.5, 4)),
    _create("only categorical", 200, parameters=PARAMETERS[:1]),
    _create("dup metric", 400, "Duplicate metric name: acc", metrics=[ACCURACY, {**LATENCY, "name": "acc"}]),
    _create("3 optimized", 400, "must have at most 2 optimized metrics", metrics=_optimized("a", "b", "c")),
    _create("2 optimized", 200, metrics=_optimized("a", "b")),
    _create("constraint only", 200, metrics=[ACCURACY]),
    _create("4 constraints", 200, metrics=_constraints(4)),
    _create("5 constraints", 400, "must have at most 4 constraint metrics", metrics=_constraints(5)),
    _create(
        "constraint w/o threshold",
        400,
        "Constraint metrics must have the threshold field defined",
        metrics=[{"name": "acc", "strategy": "constraint"}, LATENCY],
    ),
    _create("constraint w/o budget", 400, f"{UNNEEDED} constraint metrics", without=("observation_budget",)),
    _create(
        "2 optimized w/o budget",
        400,
        f"{UNNEEDED} more than one optimized metric",
        without=("observation_budget",),
        metrics=_optimized("a", "b"),
    ),
    _create("threshold on 1 optimized", 400, "Thresholds are only supported", metrics=_optimized("lat", threshold=0.9)),
    _create(
        "threshold text",
        400,
        "Invalid type for .metrics[0].threshold: \"0.9\" - expected type ['number', 'null']",
        metrics=[{**ACCURACY, "threshold": "0.9"}, LATENCY],
    ),
    _create("bad strategy", 400, "foo is not one of the allowed values", metrics=_optimized("lat", strategy="foo")),
    _create("bad objective", 400, "foo is not one of the allowed values", metrics=_optimized("lat", objective="foo")),
    _create("budget 0", 400, "observation_budget: 0 - expected type positive_integer", observation_budget=0),
    _create("budget -1", 400, "observation_budget: -1 - expected type positive_integer", observation_budget=-1),
    _create(
        "budget float", 400, ".observation_budget: 1.5 - expected type ['integer', 'null']", observation_budget=1.5
    ),
    _create("budget 2", 200, observation_budget=2),
    _create("bandwidth 0", 400, "parallel_bandwidth: 0 - expected type positive_integer", parallel_bandwidth=0),
    _create("bandwidth 100", 200, parallel_bandwidth=100),
    _create("metadata 100 keys", 200, metadata={f"k{i}": "v" for i in range(100)}),
    _create("metadata 101 keys", 400, "Expected at most 100 keys", metadata={f"k{i}": "v" for i in range(101)}),
    _create("metadata value 500", 200, metadata={"k": "v" * 500}),
    _create("metadata value 501", 400, "The length of .k must be less than or equal to 500", metadata={"k": "v" * 501}),
    _create("metadata key 100", 200, metadata={"k" * 100: "v"}),
    _create("metadata key 101", 400, "'kkkkkkkkkk...kkkkkkkkkk' must be less than 100", metadata={"k" * 101: "v"}),
    _create(
        "metadata bool",
        400,
        "Invalid type for .k: true - expected type ['string', 'number', 'null']",
        metadata={"k": True},
    ),
    _create("metadata nested", 400, 'Invalid type for .k: {"a": 1} - expected type', metadata={"k": {"a": 1}}),
    _create("metadata null value", 200, metadata={"k": None}),
    _create("unknown key", 400, "Unknown json keys `foo` in", foo=1),
    _create("without what is optional", 200, without=("project", "parallel_bandwidth")),
    Row("suggest", "POST", "experiments/{e}/suggestions", {}, 200),
    Row("list open", "GET", "experiments/{e}/suggestions", {"state": "open"}, 200),
    _observe("by suggestion", 200, suggestion="{s}", values=VALUES),
    _observe("same suggestion again", 200, suggestion="{s}", values=VALUES),
    Row("list open after", "GET", "experiments/{e}/suggestions", {"state": "open"}, 200),
    _observe("assignments", 200, assignments=CHOSEN, values=VALUES),
    _observe("failed with suggestion", 200, suggestion="{s}", failed=True),
    _observe(
        "unknown suggestion", 400, "No suggestion: 999999 for experiment: {e}", suggestion="999999", values=VALUES
    ),
    _observe("suggestion text", 400, 'Invalid type for suggestion: "abc"', suggestion="abc", values=VALUES),
    _observe("missing assignment", 400, 'Missing assignment for parameter: "k"', assignments={"g": "a"}, values=VALUES),
    _observe("extra assignment", 400, 'does not exist: "z"', assignments={**CHOSEN, "z": 1}, values=VALUES),
    _observe(
        "bad category",
        400,
        "Invalid value for categorical parameter g: z",
        assignments={**CHOSEN, "g": "z"},
        values=VALUES,
    ),
    _observe("int out of bounds", 200, assignments={**CHOSEN, "k": 9}, values=VALUES),
    _observe("int as float 1.0", 200, assignments={**CHOSEN, "k": 1.0}, values=VALUES),
    _observe("int as float 1.5", 400, "Invalid type for k: 1.5", assignments={**CHOSEN, "k": 1.5}, values=VALUES),
    _observe("both", 400, "Cannot specify `suggestion` and", suggestion="{s}", assignments=CHOSEN, values=VALUES),
    _observe("neither", 400, "Must provide exactly one of `suggestion`, `assignments` in", values=VALUES),
    _observe("failed with values", 400, "Cannot provide `values`", assignments=CHOSEN, failed=True, values=VALUES),
    _observe("failed false no values", 400, 'Missing required json key "value"', assignments=CHOSEN, failed=False),
    _observe("no values", 400, 'Missing required json key "value"', assignments=CHOSEN),
    _observe("one value", 400, "number of observation values and experiment", assignments=CHOSEN, values=VALUES[:1]),
    _observe(
        "wrong metric name",
        400,
        "values must have metric names defined in experiment",
        assignments=CHOSEN,
        values=_lat(name="zzz"),
    ),
    _observe("text value", 400, "Invalid type for .values[1].value", assignments=CHOSEN, values=_lat(value="1")),
    _observe(
        "neg stddev",
        400,
        ".values[1].value_stddev must be greater than or equal to 0.0",
        assignments=CHOSEN,
        values=_lat(value_stddev=-1.0),
    ),
    _observe("stddev 0", 200, assignments=CHOSEN, values=_lat(value_stddev=0.0)),
    _observe("huge value", 200, assignments=CHOSEN, values=_lat(value=1e30)),
    _observe(
        "metadata 501",
        400,
        "The length of .k must be less than or equal to 500",
        assignments=CHOSEN,
        values=VALUES,
        metadata={"k": "v" * 501},
    ),
    _observe("unknown key", 400, "Unknown keys were provided", assignments=CHOSEN, values=VALUES, foo=1),
    Row("get experiment later", "GET", "experiments/{e}", {}, 200),
    Row("list observations", "GET", "experiments/{e}/observations", {}, 200),
    Row(
        "list observations limit 1001",
        "GET",
        "experiments/{e}/observations",
        {"limit": 1001},
        400,
        "Exceeded maximum limit: 1000",
    ),
    Row("page 1", "GET", "experiments/{e}/observations", {"limit": 1}, 200),
    Row("best", "GET", "experiments/{e}/best_assignments", {}, 200),
    Row("project's experiments", "GET", "clients/1/projects/probe/experiments", {}, 200),
    Row("unknown experiment", "GET", "experiments/999999", {}, 404, NOT_FOUND),
    Row("unknown endpoint", "GET", "nonsense/1", {}, 404, "Endpoint not found: /v1/nonsense/1"),
    Row("experiment 0", "GET", "experiments/0", {}, 404, NOT_FOUND),
    Row("experiment text", "GET", "experiments/abc", {}, 404, "Endpoint not found: /v1/experiments/abc"),
    Row("over budget suggest", "POST", "experiments/{e}/suggestions", {}, 200),
)

SAME_FORM = {
    "token": {
        "all_experiments", "client", "development", "experiment", "expires", "lease_length", "object", "organization",
        "permissions", "scope", "token", "token_type", "training_run", "user",
    },
    "page 1": {"count", "data", "object", "paging"},
    "get experiment later": {
        "client", "conditionals", "created", "development", "id", "linear_constraints", "metadata", "metrics", "name",
        "num_solutions", "object", "observation_budget", "parallel_bandwidth", "parameters", "progress", "project",
        "runs_only", "state", "type", "updated", "user",
    },
}  # fmt: skip
"""Keys of the server's answers."""

DIFFERENT_FORM = {
    ".user": "a string there, null here: there is no user who could own a thing",
    ".paging": "the cursors are the ids of the first and the last item here, encoded texts there; both are opaque",
    ".progress.best_observation.suggestion": "null there where the best was reported by its assignments, as here",
}
"""What else differs between the answers, and why it does."""
