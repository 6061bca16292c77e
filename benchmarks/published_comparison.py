"""basic against sigopt, after the comparison that Intel Neural Compressor published for its SigOpt strategy.

Each model, strategy and seed has one run of ``python -m nc_strategies`` with the same number of trials. The models of
all runs are then evaluated side by side with fp32 in one process, several times, with models alternating per batch.
`duration` is the time of one whole evaluation, as in the published table.

    python benchmarks/published_comparison.py --data ../shared/data --trials 20 --seeds 0 1 2
    python benchmarks/published_comparison.py --model mine.keras --evaluation eval.npz --calibration calib.npz \
        --override data.preprocess.scale=0.00392 data.preprocess.resize=[224,224]

Finished runs are not repeated, so that the script can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SCALED = ["data.preprocess.scale=0.00784313725", "data.preprocess.offset=-1"]
REFERENCE = {
    "MobileNet_v1": ("mobilenet_v1.keras", [*SCALED, "data.preprocess.resize=[64,64]"]),
    "ResNet50_v1": ("resnet50_v1.keras", SCALED),
}
PUBLISHED = {
    "MobileNet_v1": (0.8266, {"basic": (0.8372, 88.21), "sigopt": (0.8372, 83.75)}),
    "ResNet50_v1": (0.8299, {"basic": (0.8294, 85.08), "sigopt": (0.8291, 83.45)}),
}
PACKAGES = ("nc-strategies", "tensorflow", "sigopt", "optuna", "numpy")
DURATION_TIE = 0.015
"""Relative difference of medians below which two durations tie: repeated timing does not reproduce it."""


@dataclass(frozen=True)
class Case:
    """A model and its data, with the overrides of its runs."""

    name: str
    overrides: tuple[str, ...]


def cases(arguments: argparse.Namespace) -> list[Case]:
    """The cases of the reference models in a folder, or of the user's model."""
    if arguments.model:
        data = [f"model.path={arguments.model}", f"data.path={arguments.evaluation}"]
        if arguments.calibration:
            data.append(f"data.calibration_path={arguments.calibration}")
        return [Case(Path(arguments.model).stem, (*data, *arguments.override))]
    folder = Path(arguments.data).resolve()
    data = [f"data.path={folder / 'cifar10_eval.npz'}", f"data.calibration_path={folder / 'cifar10_calib.npz'}"]
    return [
        Case(name, (f"model.path={folder / file}", *data, *how, *arguments.override))
        for name, (file, how) in REFERENCE.items()
        if not arguments.only or name in arguments.only
    ]


def run(case: Case, strategy: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Run once in a separate process, and return the run's folder."""
    folder = Path(arguments.work).resolve() / case.name / f"{strategy}-{seed}"
    result = folder / "result.json"
    found = json.loads(result.read_text()) if result.is_file() else {"stop_reason": "interrupted"}
    if found["stop_reason"] != "interrupted" and found["budget"]["max_trials"] == arguments.trials:
        print(f"{case.name} {strategy} seed {seed}: done before", flush=True)
        return folder
    command = [
        sys.executable,
        "-m",
        "nc_strategies",
        f"strategy={strategy}",
        "backend=tensorflow",
        "model=keras",
        "data=npz",
        *case.overrides,
        f"tuning.max_trials={arguments.trials}",
        f"tuning.seed={seed}",
        f"measure.batch_size={arguments.batch_size}",
        f"run_dir={folder}",
    ]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{case.name} {strategy} seed {seed} ended with status {done.returncode}:\n{done.stderr}")
    print(
        f"{case.name} {strategy} seed {seed}: status {done.returncode}, {time.perf_counter() - start:.0f} s", flush=True
    )
    return folder


def evaluate(case: Case, folders: Sequence[Path], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Evaluate fp32 and the models of runs side by side, in a child: TensorFlow sets its threads once per process."""
    command = [
        sys.executable,
        __file__,
        "--evaluate",
        *map(str, folders),
        "--passes",
        str(arguments.passes),
        "--threads",
        str(arguments.threads),
    ]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


def evaluate_here(folders: Sequence[Path], passes: int, threads: int) -> None:
    """Evaluate saved models side by side with their fp32 model, and print the figures as one line of JSON."""
    import yaml

    from nc_strategies.data.dataset import Dataset
    from nc_strategies.measuring.accuracy import predict
    from nc_strategies.metrics.classification import Top1
    from nc_strategies.registry import registry

    config = yaml.safe_load((folders[0] / "config.yaml").read_text())
    found = registry()
    backend = found.create("backend", config["backend"], threads)
    info = backend.load(found.create("model", config["model"]).load())
    settings = found.settings("data", config["data"])
    raw, _ = found.target(found.get("data", config["data"]["name"]))(settings).load()
    data = Dataset(raw, settings.preprocess, info)
    models = [backend.reference()]
    for folder in folders:
        result = json.loads((folder / "result.json").read_text())
        models.append(backend.open(folder / result["model_path"]))
    predict(models, data, 100)
    seconds = np.zeros((passes, len(models)))
    for number in range(passes):
        outputs = predict(models, data, 100)
        seconds[number] = [o.seconds for o in outputs]
    accuracy = [Top1().compute(o.outputs, data.labels) for o in outputs]
    executed = [m.executed() for m in models]
    ratios = np.log(seconds / seconds[:, :1])
    rows = [
        {
            "accuracy": accuracy[i],
            "duration_s": float(np.median(seconds[:, i])),
            "duration_of_fp32": float(np.exp(ratios[:, i].mean())),
            "spread": float(1.96 * ratios[:, i].std(ddof=1) / np.sqrt(passes)),
            "int8_ops": executed[i].int8_count,
            "fp32_ops": executed[i].fp32_count,
        }
        for i in range(len(models))
    ]
    print(json.dumps(rows))


def compare(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run a case for all strategies and seeds, and evaluate the models."""
    labels = [(strategy, seed) for seed in arguments.seeds for strategy in arguments.strategies]
    folders = [run(case, strategy, seed, arguments) for strategy, seed in labels]
    fp32, *rows = evaluate(case, folders, arguments)
    runs = []
    for (strategy, seed), folder, row in zip(labels, folders, rows, strict=True):
        result = json.loads((folder / "result.json").read_text())
        runs.append(
            {
                "strategy": strategy,
                "seed": seed,
                **row,
                "status": result["status"],
                "engine": result["engine"],
                "trials": result["trials"],
                "speedup": result["speedup"],
                "speedup_ci95": result["speedup_ci95"],
                "search_s": result["seconds"]["total"],
            }
        )
    return {"model": case.name, "fp32": fp32, "runs": runs}


def summary(case: dict[str, Any], strategies: Sequence[str]) -> list[dict[str, Any]]:
    """One row per strategy: medians and ranges over the seeds."""
    rows = []
    for strategy in strategies:
        runs = [r for r in case["runs"] if r["strategy"] == strategy]
        accuracy, duration, of_fp32, search = (
            [r[key] for r in runs] for key in ("accuracy", "duration_s", "duration_of_fp32", "search_s")
        )
        rows.append(
            {
                "model": case["model"],
                "fp32": case["fp32"]["accuracy"],
                "fp32_s": case["fp32"]["duration_s"],
                "strategy": strategy,
                "accuracy": float(np.median(accuracy)),
                "accuracies": sorted(accuracy),
                "duration_s": float(np.median(duration)),
                "durations_s": sorted(duration),
                "of_fp32": float(np.median(of_fp32)),
                "of_fp32_range": [min(of_fp32), max(of_fp32)],
                "search_s": float(np.median(search)),
                "met": sum(r["status"] == "met" for r in runs),
                "runs": len(runs),
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The columns of the published table and further ones, as Markdown."""
    lines = [
        "| model | fp32 | fp32 duration (s) | strategy | int8 accuracy | int8 duration (s) | duration of fp32's | "
        "search (s) | met |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['model']} | {r['fp32']:.4f} | {r['fp32_s']:.2f} | {r['strategy']} "
            f"| {r['accuracy']:.4f} ({r['accuracies'][0]:.4f}-{r['accuracies'][-1]:.4f}) "
            f"| {r['duration_s']:.2f} ({r['durations_s'][0]:.2f}-{r['durations_s'][-1]:.2f}) "
            f"| {r['of_fp32']:.3f} ({r['of_fp32_range'][0]:.3f}-{r['of_fp32_range'][1]:.3f}) "
            f"| {r['search_s']:.0f} | {r['met']} of {r['runs']} |"
        )
    return "\n".join(lines)


def claims(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The questions of the comparison, with their answers."""
    answers = []
    for model in dict.fromkeys(r["model"] for r in rows):
        of = {r["strategy"]: r for r in rows if r["model"] == model}
        for name, r in of.items():
            within = r["accuracies"][0] >= r["fp32"] * 0.99
            answers.append(f"{model}, {name}: every seed within 1 % of fp32's accuracy: {'yes' if within else 'NO'}")
        if {"basic", "sigopt"} <= set(of):
            ratio = of["sigopt"]["of_fp32"] / of["basic"]["of_fp32"]
            verdict = "yes" if ratio <= 1 else "a tie" if ratio <= 1 + DURATION_TIE else "NO"
            answers.append(f"{model}: sigopt's median duration not above basic's: {verdict} (ratio {ratio:.3f})")
    return answers


def document(found: dict[str, Any]) -> str:
    """The whole page, as Markdown."""
    rows = found["rows"]
    published = [
        f"| {model} | {fp32:.4f} | {name} | {accuracy:.4f} | {seconds:.2f} |"
        for model, (fp32, of) in PUBLISHED.items()
        for name, (accuracy, seconds) in of.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return "\n".join(
        [
            "# The published comparison",
            "",
            "Made by `benchmarks/published_comparison.py`: TensorFlow, the same number of trials for both strategies, "
            "goal 1 % relative, the models of all runs evaluated side by side with fp32 in one process. Medians over "
            "the seeds, in brackets the range. Absolute seconds mean little on a shared machine; the column "
            "`duration of fp32's` is a ratio measured batch by batch in turn.",
            "",
            f"{found['date']}; {found['trials']} trials a run, seeds {', '.join(map(str, found['seeds']))}, "
            f"{found['passes']} timed passes, {found['threads']} thread; {found['processor']}; {versions}.",
            "",
            table(rows),
            "",
            *[f"- {line}" for line in found["claims"]],
            "",
            "What Intel Neural Compressor published for its two strategies (other weights, ImageNet, another machine):",
            "",
            "| model | fp32 | strategy | int8 accuracy | int8 duration (s) |",
            "|---|---|---|---|---|",
            *published,
            "",
        ]
    )


def processor() -> str:
    """The processor's name and its instruction sets for int8."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].replace("\t", "").splitlines() if ":" in line)
    flags = [f for f in ("avx2", "avx512_vnni", "avx_vnni", "amx_int8") if f in fields.get("flags", "").split()]
    return f"{fields.get('model name', '').strip()} ({', '.join(flags)})"


def main() -> None:
    """Run, print the table, write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data", help="folder of the reference models and pictures")
    parser.add_argument("--only", nargs="+", help="some of the reference models: " + ", ".join(REFERENCE))
    parser.add_argument("--model", help="a Keras model of your own instead")
    parser.add_argument("--evaluation", help="its evaluation data, .npz")
    parser.add_argument("--calibration", help="its calibration data, .npz")
    parser.add_argument("--override", nargs="*", default=[], help="further keys for every run")
    parser.add_argument("--strategies", nargs="+", default=["basic", "sigopt"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32, help="samples of a timed run during the search")
    parser.add_argument("--passes", type=int, default=7, help="evaluations of each model at the end")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", default="outputs/published-comparison", help="where the runs leave their files")
    parser.add_argument("--markdown", help="write the page here")
    parser.add_argument("--evaluate", nargs="+", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if arguments.evaluate:
        evaluate_here(arguments.evaluate, arguments.passes, arguments.threads)
        return
    done = [compare(case, arguments) for case in cases(arguments)]
    rows = [row for case in done for row in summary(case, arguments.strategies)]
    found = {
        "date": date.today().isoformat(),
        "trials": arguments.trials,
        "seeds": arguments.seeds,
        "passes": arguments.passes,
        "threads": arguments.threads,
        "processor": processor(),
        "versions": {"python": platform.python_version(), **{p: metadata.version(p) for p in PACKAGES}},
        "rows": rows,
        "claims": claims(rows),
        "cases": done,
    }
    Path(arguments.work).mkdir(parents=True, exist_ok=True)
    (Path(arguments.work) / "comparison.json").write_text(json.dumps(found, indent=2) + "\n")
    if arguments.markdown:
        Path(arguments.markdown).write_text(document(found))
    print(table(rows))
    print("\n".join(found["claims"]))


if __name__ == "__main__":
    main()
