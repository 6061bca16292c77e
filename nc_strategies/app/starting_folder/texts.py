"""The texts of a starting folder: ``tune.yaml``, ``data.py``, ``run.sh`` and ``README.md``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from nc_strategies.app.starting_folder.choices import FIDELITY, LABELS, NO_LABELS, SAMPLE, Choices, Tensor
from nc_strategies.registry.literal import literal

CONFIG, SCRIPT, RUN, README = "tune.yaml", "data.py", "run.sh", "README.md"
NAMES = (CONFIG, SCRIPT, RUN, README)
COMMAND = f"python -m nc_strategies --config-dir . --config-name {Path(CONFIG).stem}"
RANDOM_SAMPLES = 300
"""Random samples of a script for data that is not there: 100 to calibrate, the others to compare."""
FREE_SIZE = 32
"""Length of random samples along a free axis; divisible by the strides of most models."""
FREE_PICTURE = 224
"""Height and width of random pictures of a model that takes any size."""
TOKENS = 100
"""Token numbers of random texts are below this, which any vocabulary has."""


def texts(choices: Choices, folder: Path) -> dict[str, str]:
    """Name of each file to its text.

    Args:
        choices: What they say.
        folder: Where they will be; paths of what is in it are written relative to it.
    """
    found = {CONFIG: _config(choices, folder), RUN: _run(), README: _readme(choices)}
    if choices.script:
        found[SCRIPT] = _script(choices, folder)
    return found


def _place(path: Path, folder: Path) -> str:
    """A path as the files of the folder state it."""
    whole = folder.resolve()
    return path.relative_to(whole).as_posix() if path.is_relative_to(whole) else str(path)


class _Dumper(yaml.SafeDumper):
    """Writes mappings one key a line, and lists on one line."""


def _flow(dumper: _Dumper, data: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)


_Dumper.add_representer(list, _flow)


def _yaml(value: Any) -> str:
    return yaml.dump(
        literal(value), Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=1000
    )


def _config(choices: Choices, folder: Path) -> str:
    model, metrics = choices.model, choices.metrics
    data = {key: value for key, value in choices.data.items() if key != "name"}
    if "path" in data and choices.source is not None:
        data["path"] = _place(choices.source, folder)
    groups = [("backend", model.backend), ("model", model.name), ("data", choices.data["name"])]
    if metrics is not None:
        groups.append(("metrics", metrics))
    lines = [
        f"# A run of nc_strategies. Start it in this folder with ./{RUN}, or",
        f"# {COMMAND}",
        "# Any key can be set here, or behind the command, such as tuning.timeout=600.",
        "defaults:",
        "  - config",
        *(f"  - override {group}: {name}" for group, name in groups),
        "  - _self_",
        "",
    ]
    if model.path is not None:
        lines += ["# The fp32 model.", _yaml({"model": {"path": _place(model.path, folder)}})]
    if data:
        note = "# The samples."
        if choices.script:
            note = f"# The samples: functions of {SCRIPT}."
        if "preprocess" in data:
            note += " Preprocessing is ((x * scale + offset) - mean) / std: as the model was trained."
        lines += [note, _yaml({"data": data})]
    if choices.accuracy:
        lines += ["# The metric that is a constraint; latency is what becomes better.", _accuracy(choices)]
    kind = "a part of fp32's value" if choices.criterion == "relative" else "in the metric's unit"
    lines += [
        f"# The loss of {choices.metric} that is allowed, {kind}.",
        _yaml({"tuning": {"criterion": choices.criterion, "tolerable_loss": choices.tolerable_loss}}),
        "# What the run leaves. The same command resumes a run that was interrupted.",
        "run_dir: out",
    ]
    return "\n".join(lines) + "\n"


def _accuracy(choices: Choices) -> str:
    return _yaml({"metrics": {"accuracy": dict(choices.accuracy)}})


def _run() -> str:
    return f"""#!/bin/sh
# Tunes the model. Arguments are further keys: ./{RUN} tuning.max_trials=20 measure.threads=2
cd "$(dirname "$0")" && exec {COMMAND} "$@"
"""


def _script(choices: Choices, folder: Path) -> str:
    takes = "\n".join(f"    {tensor.text}" for tensor in choices.model.inputs if tensor.axis is not None)
    labels = f"\nLabels would be {choices.model.labels}.\n" if choices.model.labels else ""
    head = (
        f'"""The samples that {CONFIG} names. `python {SCRIPT}` shows them.\n\n'
        f'The model takes, samples first:\n\n{takes}\n{labels}"""\n'
    )
    body = {"npz": _npz, SAMPLE: _sample, LABELS: _labels, NO_LABELS: _random}[choices.script](choices, folder)
    return f"{head}\n{body}\n\n{SHOW}"


SHOW = '''def show(name, array):
    """Print what an array holds."""
    print(f"{name}: {array.dtype} {array.shape}, from {array.min()} to {array.max()}")


if __name__ == "__main__":
    given = samples()
    x, y = given if isinstance(given, tuple) else (given, None)
    for name, array in x.items() if isinstance(x, dict) else [("x", x)]:
        show(name, np.asarray(array))
    if y is not None:
        show("y", np.asarray(y))
'''


def _npz(choices: Choices, folder: Path) -> str:
    where = _place(choices.source, folder) if choices.source is not None else ""
    labelled = choices.metrics != FIDELITY
    names = json.dumps(list(choices.arrays), ensure_ascii=False)
    returned = 'arrays, file["y"]' if labelled else "arrays"
    docstring = "Inputs by name, and their labels." if labelled else "Inputs by name; fp32's outputs are the reference."
    return f'''import numpy as np

SOURCE = {json.dumps(where, ensure_ascii=False)}
INPUTS = {names}


def samples():
    """{docstring}"""
    with np.load(SOURCE) as file:
        arrays = {{name: file[name] for name in INPUTS}}
        return {returned}
'''


def _sample(choices: Choices, folder: Path) -> str:
    return '''import numpy as np

from nc_strategies.samples import calibration_images, evaluation_images


def samples():
    """3,000 pictures with pixels from 0 to 255, and the numbers of their classes."""
    with np.load(evaluation_images()) as file:
        return file["x"], file["y"]


def calibration():
    """300 other pictures, from which the ranges of int8 follow."""
    with np.load(calibration_images()) as file:
        return file["x"]
'''


def _labels(choices: Choices, folder: Path) -> str:
    message = f"write samples() in {SCRIPT}: it returns inputs and labels"
    return f'''import numpy as np


def samples():
    """Inputs and their labels: a few hundred samples or more, all that the metric is to be measured on.

    Return (x, y), or yield such pairs as batches. With several inputs, x is a dict of arrays by the inputs' names.
    """
    raise NotImplementedError({json.dumps(message)})
'''


def _random(choices: Choices, folder: Path) -> str:
    read = [tensor for tensor in choices.model.inputs if tensor.axis is not None]
    arrays = ", ".join(f"{json.dumps(t.name, ensure_ascii=False)}: {_random_array(t)}" for t in read)
    value = f"{{{arrays}}}" if len(read) != 1 else _random_array(read[0])
    return f'''import numpy as np

COUNT = {RANDOM_SAMPLES}


def samples():
    """Random numbers of the model's shapes: they show the speed, but not what int8 does to real samples. Replace them.

    Return x, or yield batches. With several inputs, x is a dict of arrays by the inputs' names.
    """
    rng = np.random.default_rng(0)
    return {value}
'''


def _random_array(tensor: Tensor) -> str:
    """An expression for random samples of an input."""
    shape = tensor.sample_shape
    picture = len(shape) == 3
    free = FREE_PICTURE if picture else FREE_SIZE
    sizes = ", ".join(["COUNT", *(str(size) if isinstance(size, int) else str(free) for size in shape)])
    size = f"({sizes},)" if not shape else f"({sizes})"
    kind, name = tensor.dtype or "float32", tensor.name.lower()
    if "mask" in name:
        return f"np.ones({size}, {json.dumps(kind)})"
    if "bool" in kind or "type" in name or "segment" in name:
        return f"np.zeros({size}, {json.dumps(kind)})"
    if "int" in kind:
        return f"rng.integers(1, {TOKENS}, {size}).astype({json.dumps(kind)})"
    return f"rng.normal(size={size}).astype({json.dumps(kind)})"


def _readme(choices: Choices) -> str:
    model = choices.model
    what = f"`{model.path.name}`" if model.path is not None else f"the bundled model `{model.name}`"
    loss = f"{choices.tolerable_loss:g} ({'of fp32' if choices.criterion == 'relative' else 'absolute'})"
    edit = []
    if choices.script == LABELS:
        edit.append(f"Write `samples()` in `{SCRIPT}`; until then the run ends with one line that says so.")
    if choices.script == NO_LABELS:
        edit.append(f"Replace the random numbers of `samples()` in `{SCRIPT}` by samples as the model meets them.")
    if choices.placeholders or ("preprocess" in choices.data and choices.source is not None):
        edit.append(
            f"Look at the preprocessing and the metric in `{CONFIG}`: they must be what the model was trained with."
        )
    todo = "\n".join(["Before the first run:", "", *(f"- {line}" for line in edit)]) if edit else "It runs as it is."
    script = f"| `{SCRIPT}` | the samples; `python {SCRIPT}` shows them |\n" if choices.script else ""
    return f"""# Quantization of {what}

The run looks for the fastest model on {model.backend} whose {choices.metric} loses at most {loss}.

```console
$ ./{RUN}                        # or: {COMMAND}
$ nc-strategies check out         # status 0 if the goal is met, 3 if not
```

| file | |
| --- | --- |
| `{CONFIG}` | the configuration: model, data, metric, goal |
{script}| `{RUN}` | the command |
| `out/` | what the run leaves: `model/`, `report.html`, `result.json` |

{todo}

A first look takes less time with `./{RUN} tuning=quick run_dir=quick`. `./{RUN} plan=true` says what a run would do.
"""
