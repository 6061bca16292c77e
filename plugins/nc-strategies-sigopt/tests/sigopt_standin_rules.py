"""What a SigOpt server refuses with 400, as the probes of a real one show; nothing of the package's own checks.

Each rule is a pair of what is wrong and the server's words for it; the first that holds is the answer.
"""

import re

SLUG = re.compile(r"^[a-z0-9\-_\.]+$")
CREATE_KEYS = {
    "name", "project", "parameters", "metrics", "observation_budget", "parallel_bandwidth", "metadata",
    "conditionals", "linear_constraints", "num_solutions", "type",
}  # fmt: skip
OBSERVE_KEYS = {"suggestion", "assignments", "values", "failed", "metadata"}


class Bad(Exception):
    """A request that is answered with 400."""


def need(holds, words):
    if not holds:
        raise Bad(words)


def number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def text(body, key, longest, where=None):
    need(key in body, f'Missing required json key "{key}" in: {body}')
    where = where or f".{key}"
    need(len(body[key]) > 0, f"The length of {where} must be greater than or equal to 1")
    need(len(body[key]) <= longest, f"The length of {where} must be less than or equal to {longest}")


def slug(value):
    need(SLUG.match(value), rf"{value} does not match the regular expression /^[a-z0-9\-_\.]+$/")


def project(body):
    text(body, "name", 100)
    text(body, "id", 32)
    slug(body["id"])


def metadata(facts):
    facts = facts or {}
    need(len(facts) <= 100, f"Expected at most 100 keys in {facts}")
    for key, value in facts.items():
        need(len(key) <= 100, f"The length of the metadata key '{key[:10]}...{key[-10:]}' must be less than 100")
        shown = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else str(value).replace("'", '"')
        fine = value is None or isinstance(value, str) or number(value)
        need(fine, f"Invalid type for .{key}: {shown} - expected type ['string', 'number', 'null']")
        need(not isinstance(value, str) or len(value) <= 500, f"The length of .{key} must be less than or equal to 500")


def positive(body, key):
    value = body.get(key)
    if value is not None:
        need(isinstance(value, int), f"Invalid type for .{key}: {value} - expected type ['integer', 'null']")
        need(value > 0, f"Invalid type for {key}: {value} - expected type positive_integer")


def parameters(items):
    need(items, "Experiments must have at least one parameter.")
    names = [item["name"] for item in items]
    for place, item in enumerate(items):
        text(item, "name", 100, f".parameters[{place}].name")
        if item["type"] == "categorical":
            categories(item)
        else:
            bounds(item)
    for name in names:
        need(names.count(name) == 1, f"Duplicate parameter name: {name}")


def categories(item):
    values = item["categorical_values"]
    need(len(values) > 1, f"Categorical parameter {item['name']} should have at least 2 categorical values.")
    for value in values:
        need(value, "Invalid name: cannot be empty")
        need(len(value) <= 50, "Categorical names must be less than 50 characters")
        need(values.count(value) == 1, f"Duplicate categorical value name: {value}")


def bounds(item):
    low, high = item["bounds"]["min"], item["bounds"]["max"]
    for key, value in (("min", low), ("max", high)):
        whole = item["type"] != "int" or float(value).is_integer()
        need(whole, f"Invalid type for {key}: {value} - expected type integer")
    need(low <= high, "Invalid bounds: max must be greater than min")
    need(high - low > 1e-8, f"Invalid bounds: minimum: {low}\nmaximum: {high}\n does not exceed min length: 1e-08")


def metrics(body):
    items = body.get("metrics")
    if items is None:
        return
    need(items, "The `metrics` list must contain a metric")
    names = [item["name"] for item in items]
    for place, item in enumerate(items):
        need(names.count(item["name"]) == 1, f"Duplicate metric name: {item['name']}")
        metric(place, item)
    kinds = [item.get("strategy", "optimize") for item in items]
    need(kinds.count("optimize") <= 2, "Experiments must have at most 2 optimized metrics")
    need(kinds.count("constraint") <= 4, "Experiments must have at most 4 constraint metrics")
    budget = body.get("observation_budget")
    required = "observation_budget is required for an experiment with"
    need(kinds.count("optimize") < 2 or budget is not None, f"{required} more than one optimized metric")
    need("constraint" not in kinds or budget is not None, f"{required} constraint metrics")
    single = kinds.count("optimize") == 1
    for item, kind in zip(items, kinds, strict=True):
        alone = single and kind == "optimize" and item.get("threshold") is not None
        need(not alone, "Thresholds are only supported for experiments with more than one optimized metric.")


def metric(place, item):
    for key, allowed in (("strategy", ("optimize", "store", "constraint")), ("objective", ("maximize", "minimize"))):
        value = item.get(key, allowed[0])
        need(value in allowed, f"{value} is not one of the allowed values: {', '.join(allowed)}")
    threshold = item.get("threshold")
    shown = f"Invalid type for .metrics[{place}].threshold: \"{threshold}\" - expected type ['number', 'null']"
    need(threshold is None or number(threshold), shown)
    fine = item.get("strategy") != "constraint" or threshold is not None
    need(fine, "Constraint metrics must have the threshold field defined")


def experiment(body):
    text(body, "name", 100)
    unknown = sorted(set(body) - CREATE_KEYS)
    need(not unknown, f"Unknown json keys `{', '.join(unknown)}` in: {body}")
    if body.get("project") is not None:
        slug(body["project"])
    parameters(body.get("parameters"))
    positive(body, "observation_budget")
    positive(body, "parallel_bandwidth")
    metrics(body)
    metadata(body.get("metadata"))


def observation(body):
    unknown = set(body) - OBSERVE_KEYS
    need(not unknown, f"Invalid key: Unknown keys were provided for observation create: {unknown}")
    suggestion, chosen = body.get("suggestion"), body.get("assignments")
    need(suggestion is None or chosen is None, "Cannot specify `suggestion` and `assignments`.")
    need(suggestion or chosen, f"Must provide exactly one of `suggestion`, `assignments` in: {body}")
    fine = suggestion is None or str(suggestion).isdigit()
    need(fine, f'Invalid type for suggestion: "{suggestion}" - expected type oneOf[integer_string, integer]')
    metadata(body.get("metadata"))


def assignments(chosen, known):
    for name in chosen:
        need(name in [p["name"] for p in known], f'Invalid assignment, parameter does not exist: "{name}"')
    for one in known:
        name = one["name"]
        need(name in chosen, f'Missing assignment for parameter: "{name}"')
        if one["type"] == "categorical":
            fine = chosen[name] in [v["name"] for v in one["categorical_values"]]
            need(fine, f"Invalid value for categorical parameter {name}: {chosen[name]}")
        elif one["type"] == "int":
            need(float(chosen[name]).is_integer(), f"Invalid type for {name}: {chosen[name]} - expected type integer")


def values(body, known):
    given = body.get("values")
    if body.get("failed"):
        need(not given, "Cannot provide `values` if observation has failed")
        return
    need(given is not None, f'Missing required json key "value" in: {body}')
    need(len(given) == len(known), "The number of observation values and experiment metrics must be equal.")
    names = {m["name"] for m in known}
    need({v.get("name") for v in given} == names, f"values must have metric names defined in experiment: {names}")
    for place, one in enumerate(given):
        need(number(one["value"]), f'Invalid type for .values[{place}].value: "{one["value"]}" - expected type number')
        deviation = one.get("value_stddev")
        need(not deviation or deviation >= 0, f".values[{place}].value_stddev must be greater than or equal to 0.0")


def limit(body):
    need(int(body.get("limit", 1)) <= 1000, "Exceeded maximum limit: 1000")
