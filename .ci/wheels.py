#!/usr/bin/env python3
"""Installs from a folder of wheels alone: each extra and each plugin in a new environment, and its smallest command.

    .ci/wheels.py FOLDER [NAME ...]

FOLDER/wheels gets the project's own wheels (``.ci/packages``) and those of everything they require (``pip wheel``), at
the versions of constraints.txt; what is there already is not fetched again. Environments are made in FOLDER/NAME with
``pip install --no-index``, or uv's where uv is on the path, and removed after use. A table of names, commands and
outcomes is printed; status 1 if one failed. ``--fetch`` only fills the folder of wheels, ``--keep`` leaves the
environments.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("tuning.max_trials=2", "measure.latency_runs=20", "measure.final_runs=20", "run_dir=out")
ONNX = ("backend=onnxruntime", *QUICK)
PIXELS = ("data.preprocess.scale=0.00784313725490196", "data.preprocess.offset=-1")
WHOLE = ("data.image.resize=null", "data.image.crop=null", "data.image.channels=1", "data.calibration_samples=20")

PICTURES = """
import numpy as np
from nc_strategies import samples
with np.load(samples.evaluation_images()) as file:
    x, y = file["x"][:200].reshape(-1, 28, 28, 1), file["y"][:200]
"""
"""The bundled pictures, for the set-up of a case."""

FOLDERS = (
    PICTURES
    + """
from pathlib import Path
from PIL import Image
for number, (picture, label) in enumerate(zip(x, y)):
    folder = Path("pictures") / str(label)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture[:, :, 0]).save(folder / f"{number}.png")
"""
)

TFDS = (
    PICTURES
    + """
import tensorflow as tf
import tensorflow_datasets as tfds
features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(28, 28, 1)),
                                       "label": tfds.features.ClassLabel(num_classes=10)})
rows = tf.data.Dataset.from_tensor_slices({"image": x, "label": y.astype("int64")})
tfds.dataset_builders.store_as_tfds_dataset(name="tiny", version="1.0.0", data_dir="tfds",
                                            split_datasets={"test": rows}, features=features)
"""
)

DATASETS = (
    PICTURES
    + """
import datasets
from PIL import Image
rows = {"image": [Image.fromarray(picture[:, :, 0]) for picture in x], "label": y.tolist()}
datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows)}).save_to_disk("tiny")
"""
)

TRANSFORMER = """
import numpy as np, torch, transformers
torch.manual_seed(0)
config = transformers.ViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
                                image_size=16, patch_size=8, num_labels=3)
transformers.ViTForImageClassification(config).eval().save_pretrained("vit")
np.savez("vit.npz", x=np.random.default_rng(0).random((200, 3, 16, 16), np.float32))
"""

NOTEBOOK = (
    PICTURES
    + """
import nc_strategies
study = nc_strategies.tune(samples.onnx_model(), (x, y), preprocess={"scale": samples.SCALE, "offset": samples.OFFSET},
                           max_trials=2, latency_runs=20, final_runs=20, run_dir="out")
study.plot().savefig("study.png")
assert len(study.to_dataframe()) == 2
"""
)

DETECTIONS = """
import numpy as np
from nc_strategies.data.labels import pack_boxes
from nc_strategies.metrics.detection import CocoMap
metric = CocoMap()
boxes = np.array([[0.0, 0.0, 9.0, 9.0]])
labels = pack_boxes("y", 1, boxes, np.array([0]), np.array([0]), np.array([0]))
found = metric.compute(metric.keep([boxes[None], np.ones((1, 1)), np.zeros((1, 1))]), labels)
assert abs(found - 1) < 1e-9, found
"""

BOOKS = """
import os
from pathlib import Path
import nbclient, nbformat
from jupyter_client.manager import AsyncKernelManager
os.environ |= {name: str(Path(name).resolve()) for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR")}
for path in sorted(Path().glob("*.ipynb")):
    book = nbformat.read(path, as_version=4)
    # Through sockets in files: no port is opened.
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", connection_file=str(Path(path.stem).resolve()))
    nbclient.NotebookClient(book, km=kernel, timeout=300).execute(cleanup_kc=True)
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    print(path, pictures, "pictures")
    assert pictures >= 3, path
    nbformat.write(book, path)
"""
"""Runs the notebooks of this folder, and keeps them with what they show."""

STARTING = """
import os, subprocess, sys
from pathlib import Path
nc = str(Path(sys.executable).with_name("nc-strategies"))
os.environ["PATH"] = f"{Path(nc).parent}:{os.environ['PATH']}"
subprocess.run([nc, "init", "start", "--model", "sample", "--data", "sample", "--loss", "1%", "--yes"], check=True)
folder = Path("start")
print(*sorted(str(path) for path in folder.rglob("*")), sep="\\n")
quick = ["tuning.max_trials=2", "measure.latency_runs=20", "measure.final_runs=20"]
done = subprocess.run(["sh", "./run.sh", *quick, "run_dir=../out"], cwd=folder)
assert done.returncode in (0, 3), done.returncode
"""
"""Writes a starting folder and runs its command."""

SERVED = """
import json, re, subprocess, sys, urllib.error, urllib.request
from pathlib import Path
nc = str(Path(sys.executable).with_name("nc-strategies"))
server = subprocess.Popen([nc, "serve", "."], stdout=subprocess.PIPE, text=True)
try:
    address = re.match(r"http://127\\.0\\.0\\.1:\\d+/[\\w-]{43}/", server.stdout.readline())[0]
    page = urllib.request.urlopen(address, timeout=60).read().decode()
    assert "<html" in page
    try:
        urllib.request.urlopen(address.rsplit("/", 2)[0] + "/", timeout=60)
        raise SystemExit("it answers without its token")
    except urllib.error.HTTPError as refused:
        print("without its token:", refused.code)
finally:
    server.terminate()
    server.wait(60)
"""
"""Serves this folder and asks for the page."""

PERCEPTRON = """
import numpy as np
rng = np.random.default_rng(0)
held = {"w0": rng.normal(size=(8, 16)), "b0": np.zeros(16), "w1": rng.normal(size=(16, 4)), "b1": np.zeros(4)}
np.savez("model.npz", **{name: value.astype(np.float32) for name, value in held.items()})
x = rng.normal(size=(400, 8)).astype(np.float32)
np.savez("data.npz", x=x, y=(np.maximum(x @ held["w0"], 0) @ held["w1"]).argmax(1))
"""


@dataclass(frozen=True)
class Case:
    """What is installed, and the smallest command that uses it.

    Args:
        install: Requirements.
        command: Arguments of ``nc-strategies``; empty for a Python program alone.
        program: Python to run first, in the environment.
        leaves: Files that are there afterwards.
        own_versions: Whether it needs other versions than those of constraints.txt.
        files: Files of the repository that are copied beside the program.
    """

    install: tuple[str, ...]
    command: tuple[str, ...] = ()
    program: str = ""
    leaves: tuple[str, ...] = ("out/result.json", "out/model")
    own_versions: bool = False
    files: tuple[str, ...] = ()


CASES = {
    "base": Case(("nc-strategies",), ("list",), leaves=()),
    "onnxruntime": Case(("nc-strategies[onnxruntime]",), ONNX),
    "tensorflow": Case(("nc-strategies[tensorflow]",), ("backend=tensorflow", *QUICK)),
    "metrics": Case(("nc-strategies[onnxruntime,metrics]",), (*ONNX, "metrics=f1_latency")),
    "notebook": Case(("nc-strategies[onnxruntime,notebook]",), program=NOTEBOOK, leaves=("study.png",)),
    "report": Case(("nc-strategies[onnxruntime,report]",), ONNX, leaves=("out/result.json", "out/report.html")),
    "notebooks": Case(
        ("nc-strategies[onnxruntime,notebook,text]", "nbclient", "ipykernel"),
        program=BOOKS,
        files=tuple(f"docs/notebooks/{name}.ipynb" for name in ("vision", "text", "without_labels")),
        leaves=(),
    ),
    "init": Case(("nc-strategies[onnxruntime]",), program=STARTING),
    "completion": Case(("nc-strategies[completion]",), ("completion", "bash"), leaves=()),
    "serve": Case(("nc-strategies[serve]",), program=SERVED, leaves=()),
    "images": Case(
        ("nc-strategies[onnxruntime,images]",),
        (*ONNX, "data=image_folder", "data.path=pictures", *WHOLE, *PIXELS),
        FOLDERS,
    ),
    "coco": Case(("nc-strategies[coco]",), program=DETECTIONS, leaves=()),
    "text": Case(("nc-strategies[onnxruntime,text]",), (*ONNX, "model=sample_text", "data=sample_text")),
    "tfds": Case(
        ("nc-strategies[onnxruntime,tfds]",),
        (*ONNX, "data=tfds", "data.dataset=tiny", "data.data_dir=tfds", *WHOLE, *PIXELS),
        TFDS,
    ),
    "datasets": Case(
        ("nc-strategies[onnxruntime,datasets]",),
        (*ONNX, "data=huggingface", "data.dataset=tiny", *WHOLE, *PIXELS),
        DATASETS,
    ),
    "huggingface": Case(
        ("nc-strategies[onnxruntime,huggingface]",),
        (
            *ONNX,
            "model=huggingface",
            "model.model=vit",
            "model.task=image-classification",
            "data=npz",
            "data.path=vit.npz",
            "metrics=fidelity",
        ),
        TRANSFORMER,
        # transformers asks for an older tokenizers.
        own_versions=True,
    ),
    "all": Case(
        ("nc-strategies[all]",),
        ("backend=onnxruntime", "model=keras", "model.path=fashion.keras", "data=sample", *QUICK),
        "import shutil\nfrom nc_strategies import samples\nshutil.copy(samples.keras_model(), 'fashion.keras')\n",
        ("out/result.json", "out/model", "out/report.html"),
    ),
    "nc-strategies-dask": Case(("nc-strategies-dask", "nc-strategies[onnxruntime]"), (*ONNX, "executor=dask")),
    "nc-strategies-example": Case(
        ("nc-strategies-example",),
        (
            "strategy=bisect",
            "backend=numpy_mlp",
            "metrics=brier_size",
            "model=mlp",
            "model.path=model.npz",
            "data=npz",
            "data.path=data.npz",
            *QUICK,
        ),
        PERCEPTRON,
    ),
    "nc-strategies-litert": Case(
        ("nc-strategies-litert[tensorflow]",), ("backend=litert", "model=sample", "data=sample", *QUICK)
    ),
    "nc-strategies-mlflow": Case(
        ("nc-strategies-mlflow", "nc-strategies[onnxruntime]"),
        (*ONNX, "tracker=mlflow", "tracker.uri=sqlite:///mlflow.db"),
        leaves=("out/result.json", "mlflow.db"),
    ),
    "nc-strategies-openvino": Case(
        ("nc-strategies-openvino",), ("backend=openvino", "model=sample", "data=sample", *QUICK)
    ),
    "nc-strategies-optuna": Case(("nc-strategies-optuna", "nc-strategies[onnxruntime]"), (*ONNX, "strategy=tpe")),
    "nc-strategies-sigopt": Case(("nc-strategies-sigopt", "nc-strategies[onnxruntime]"), (*ONNX, "strategy=sigopt")),
}


def clean_environment(folder: Path) -> dict[str, str]:
    """The environment of a user who has nothing of this project, and a cache of its own."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT")
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    return {**kept, "XDG_CACHE_HOME": str(folder / "cache"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def fetch(wheels: Path, names: list[str]) -> None:
    """Build the project's wheels, and fetch or build those of all that they require.

    Raises:
        subprocess.CalledProcessError: a build or a download fails.
    """
    built = wheels.parent / "dist"
    subprocess.run([ROOT / ".ci" / "packages", built], check=True)
    wheels.mkdir(parents=True, exist_ok=True)
    for wheel in built.glob("*.whl"):
        shutil.copy(wheel, wheels)
    for name in names:
        case = CASES[name]
        print(f"== wheels for {name}", flush=True)
        versions = [] if case.own_versions else ["--constraint", str(ROOT / "constraints.txt")]
        where = ["--wheel-dir", str(wheels), "--find-links", str(wheels)]
        subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", *where, *versions, *case.install], check=True)


def _installer(python: Path) -> tuple[list[str], list[str]]:
    """The command that installs into an environment, and its arguments: uv where it is there, else pip.

    Neither reads the machine's own configuration: nothing but the folder of wheels is looked at.
    """
    if uv := shutil.which("uv"):
        return [uv, "--no-config", "--offline", "pip"], ["--python", str(python)]
    return [sys.executable, "-m", "pip", "--isolated", "--python", str(python)], []


def run(case: Case, wheels: Path, folder: Path) -> str:
    """Install a case in a new environment and run it.

    Returns:
        ``ok``, or what failed, in one line; the output is in the folder's ``log``.
    """
    folder.mkdir(parents=True)
    for file in case.files:
        shutil.copy(ROOT / file, folder)
    env, programs = clean_environment(folder), folder / "venv" / "bin"
    installer, target = _installer(programs / "python")
    steps: list[list[str | Path]] = [
        [sys.executable, "-m", "venv", "--without-pip", folder / "venv"],
        [*installer, "install", *target, "--no-index", "--find-links", wheels, *case.install],
        [*installer, "check", *target],
    ]
    if case.program:
        steps.append([programs / "python", "-c", case.program])
    if case.command:
        steps.append([programs / "nc-strategies", *case.command])
    with (folder / "log").open("w") as log:
        for step in steps:
            print("$", *step, file=log, flush=True)
            done = subprocess.run(
                step, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
            )
            # 3: no faster model was found, which depends on the processor.
            if done.returncode not in ((0, 3) if step[0] == programs / "nc-strategies" else (0,)):
                return f"{Path(step[0]).name} ended with status {done.returncode}"
    missing = [file for file in case.leaves if not (folder / file).exists()]
    if missing:
        return f"left no {', '.join(missing)}"
    if "out/result.json" in case.leaves:
        result = json.loads((folder / "out" / "result.json").read_text())
        # Of two trials, both may be stopped early as too inaccurate: that too depends on the processor.
        if not result["trials"]["ok"] + result["trials"]["pruned"]:
            return "no trial was measured"
        return f"ok ({result['status']})"
    return "ok"


def main() -> int:
    """Run the cases that are named, or all; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--fetch", action="store_true", help="only fill the folder of wheels")
    parser.add_argument("--offline", action="store_true", help="use the folder of wheels as it is")
    parser.add_argument("--keep", action="store_true", help="leave the environments")
    options = parser.parse_intermixed_args()
    names = options.names or list(CASES)
    if unknown := set(names) - set(CASES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    folder = options.folder.resolve()
    wheels = folder / "wheels"
    if not options.offline:
        fetch(wheels, names)
    if options.fetch:
        return 0
    rows = []
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)
        start, case = time.monotonic(), CASES[name]
        outcome = run(case, wheels, folder / name)
        command = f"nc-strategies {' '.join(case.command)}" if case.command else "python -c ..."
        rows.append((name, " ".join(case.install), command, outcome, f"{time.monotonic() - start:.0f} s"))
        print(" | ".join(rows[-1]), flush=True)
        if not options.keep:
            shutil.rmtree(folder / name / "venv", ignore_errors=True)
    print("\n| name | installed | command | outcome |\n| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {row[0]} | `{row[1]}` | `{row[2]}` | {row[3]} |")
    return 0 if all(row[3].startswith("ok") for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
