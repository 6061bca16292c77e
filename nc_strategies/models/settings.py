"""Settings of the models that code builds. Only light modules are imported here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class KerasApplicationsSettings:
    """Settings of `KerasApplicationsModel`.

    Args:
        name: The option's name.
        architecture: A function of ``keras.applications``, such as ``MobileNet``.
        weights: ``imagenet`` (downloaded by Keras), a ``.weights.h5`` or ``.keras`` file, or None for random weights.
        input_shape: ``[height, width, channels]``; None for the architecture's default.
        classes: Number of classes.
        options: Further arguments of the function, such as ``{alpha: 0.25}``.
        seed: Seed of random weights.
    """

    name: str = "keras_applications"
    architecture: str = "???"
    weights: str | None = "imagenet"
    input_shape: list[int] | None = None
    classes: int = 1000
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0


@dataclass
class HuggingFaceModelSettings:
    """Settings of `HuggingFaceModel`.

    Args:
        name: The option's name.
        model: A model's id on the hub, or a folder that ``save_pretrained`` wrote.
        task: Optimum's name of the task, such as ``image-classification``; ``auto`` to infer it from the model.
        revision: Branch, tag or commit.
        opset: ONNX operator set; None for optimum's default.
    """

    name: str = "huggingface"
    model: str = "???"
    task: str = "auto"
    revision: str = "main"
    opset: int | None = None


@dataclass
class PythonModelSettings:
    """Settings of `PythonModel`.

    Args:
        name: The option's name.
        target: ``module:function`` or ``path/to/file.py:function``; called without arguments, it returns a Keras
            model, an ``onnx.ModelProto``, or the path of a model.
    """

    name: str = "python"
    target: str = "???"
