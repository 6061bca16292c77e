"""The four questions of ``nc-strategies init``: the model, its data, the loss that is allowed, the engine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from nc_strategies import samples
from nc_strategies.app.inspect import inspect
from nc_strategies.app.listing import available
from nc_strategies.app.starting_folder import choices
from nc_strategies.app.starting_folder.choices import SAMPLE, SAMPLE_TEXT, Choices, Model
from nc_strategies.app.usual_backend import ONNXRUNTIME, TENSORFLOW, usual_backend
from nc_strategies.errors import InputError, NcsError
from nc_strategies.models.source import SUFFIXES, format_of

T = TypeVar("T")


@dataclass(frozen=True)
class Answers:
    """Answers given in advance, as flags; None for a question that is to be asked.

    Args:
        model: A path, or the name of a bundled model.
        data: See `choices.DATA_FORMS`.
        loss: See `choices.read_loss`.
        backend: The engine.
        proposed: Whether the proposed answer is taken where none is given.
    """

    model: str | None = None
    data: str | None = None
    loss: str | None = None
    backend: str | None = None
    proposed: bool = False


class Console:
    """Asks on standard error and reads the answers from standard input."""

    @property
    def interactive(self) -> bool:
        """Whether someone can correct an answer."""
        return sys.stdin is not None and sys.stdin.isatty()

    def ask(self, flag: str, question: str, proposed: str) -> str:
        """The answer to a question; the proposed one for an empty line.

        Raises:
            InputError: standard input has ended.
        """
        if self.interactive:
            sys.stderr.write(f"{question}\n  [{proposed}] ")
            sys.stderr.flush()
        line = sys.stdin.readline() if sys.stdin is not None else ""
        if not line:
            raise InputError(
                flag,
                "is not given, and standard input has no answer",
                "give --model, --data, --loss, --backend; or --yes",
            )
        if not self.interactive:
            sys.stderr.write(f"{question}\n  [{proposed}] {line.strip()}\n")
        return line.strip() or proposed

    def say(self, error: NcsError) -> None:
        """Tell someone at the terminal why an answer is asked for again."""
        sys.stderr.write(f"  {error}\n")


def plan(given: Answers, console: Console) -> Choices:
    """The settings of a run from the answers, asked for where they are not given.

    Raises:
        InputError: an answer cannot be used, and nobody can correct it.
    """

    def settle(flag: str, answer: str | None, question: str, proposed: str, use: Callable[[str], T]) -> T:
        while True:
            taken = answer
            if taken is None:
                taken = proposed if given.proposed else console.ask(flag, question, proposed)
            try:
                return use(taken)
            except InputError as error:
                if answer is not None or given.proposed or not console.interactive:
                    raise
                console.say(error)

    suffixes = ", ".join(SUFFIXES)
    name = settle(
        "--model",
        given.model,
        f"1. Which model? A file ({suffixes}), a SavedModel folder, or a bundled one: '{SAMPLE}' or '{SAMPLE_TEXT}'.",
        SAMPLE,
        _check_model,
    )
    # What is proposed for the data follows from the model as an engine sees it, so the usual engine opens it first.
    engine = given.backend or _usual_engine(name)
    model = _model(name, engine)
    bundled = name in (SAMPLE, SAMPLE_TEXT)
    found = settle(
        "--data",
        given.data,
        f"2. Which data? {choices.DATA_FORMS[0].upper()}{choices.DATA_FORMS[1:]}.\n   {_takes(model)}",
        SAMPLE if bundled else choices.NO_LABELS,
        lambda answer: choices.choose_data(model, answer),
    )
    criterion, loss = choices.default_loss(found)
    of = f"of fp32's {found.metric}" if criterion == "relative" else f"of {found.metric}, absolute"
    found = settle(
        "--loss",
        given.loss,
        f"3. Which loss of accuracy is allowed? A part {of}." if criterion == "relative" else f"3. Which loss {of}?",
        f"{loss:g}",
        lambda answer: found.allowing(*choices.read_loss(answer, (criterion, loss))),
    )
    return settle(
        "--backend",
        given.backend,
        f"4. Which engine? Installed: {', '.join(_installed())}.",
        engine,
        lambda answer: found if answer == engine else _with_model(found, _model(name, answer)),
    )


def _with_model(found: Choices, model: Model) -> Choices:
    """The same settings for another engine, which may know the inputs by other names."""
    return replace(found, model=model)


def _check_model(answer: str) -> str:
    """The answer, if there is such a model."""
    if answer in (SAMPLE, SAMPLE_TEXT):
        return answer
    path = Path(answer).expanduser()
    if not path.exists():
        raise InputError("--model", f"no such file: {path}", f"a model, or '{SAMPLE}'")
    if format_of(path) is None:
        allowed = f"a SavedModel folder, or a file ending in {', '.join(SUFFIXES)}"
        raise InputError("--model", f"{path} has no known model format", allowed)
    return str(path.resolve())


def _usual_engine(name: str) -> str:
    """The engine that is made for the model's format; for a bundled model one that is installed."""
    if name in (SAMPLE, SAMPLE_TEXT):
        return next((each for each in (ONNXRUNTIME, TENSORFLOW) if each in _installed()), ONNXRUNTIME)
    return usual_backend((format_of(Path(name)),))


def _installed() -> list[str]:
    return sorted(name for (kind, name), command in available().items() if kind == "backend" and not command)


def _model(name: str, engine: str) -> Model:
    """The model as the engine sees it.

    Raises:
        InputError: the engine is not known or not installed, or the model cannot be tuned on it.
    """
    files: dict[str, Any] = {
        SAMPLE: (samples.onnx_model, samples.keras_model),
        SAMPLE_TEXT: (samples.text_onnx_model, samples.text_keras_model),
    }
    bundled = name in files
    path = files[name][1 if engine == TENSORFLOW else 0]() if bundled else Path(name)
    found = inspect(path, engine)
    if found["refused"]:
        raise InputError("--model", f"{path} cannot be tuned on {engine}: {found['refused']}")
    return Model.inspected(name if bundled else found["format"], None if bundled else path, found)


def _takes(model: Model) -> str:
    """What the model takes, for the question on the data."""
    read = "; ".join(tensor.text for tensor in model.inputs if tensor.axis is not None)
    return f"The model takes {read or 'no samples'}" + (f"; labels would be {model.labels}." if model.labels else ".")
