"""The bundled samples: a Fashion-MNIST classifier and a language identifier as ONNX and Keras files, with their data.

``README.md`` in this folder describes the files; ``train.py`` and ``train_text.py`` create them.
"""

from __future__ import annotations

from pathlib import Path

SCALE = 1 / 127.5
"""The models' input is ``pixel * SCALE + OFFSET``, with pixels from 0 to 255."""
OFFSET = -1.0

_FOLDER = Path(__file__).parent


def onnx_model() -> Path:
    """Return the path of the classifier as an ONNX file."""
    return _FOLDER / "fashion_cnn.onnx"


def keras_model() -> Path:
    """Return the path of the same classifier as a Keras file."""
    return _FOLDER / "fashion_cnn.keras"


def calibration_images() -> Path:
    """Return the path of the 300 calibration images and labels (arrays x and y of an npz file)."""
    return _FOLDER / "fashion_calibration.npz"


def evaluation_images() -> Path:
    """Return the path of the 3000 evaluation images and labels (arrays x and y of an npz file)."""
    return _FOLDER / "fashion_evaluation.npz"


def text_onnx_model() -> Path:
    """Return the path of the language identifier as an ONNX file."""
    return _FOLDER / "text" / "text_encoder.onnx"


def text_keras_model() -> Path:
    """Return the path of the same language identifier as a Keras file."""
    return _FOLDER / "text" / "text_encoder.keras"


def text_tokenizer() -> Path:
    """Return the path of its tokenizer; ``config.json`` beside it names the classes."""
    return _FOLDER / "text" / "tokenizer.json"


def calibration_texts() -> Path:
    """Return the path of the 200 calibration texts (columns text and label of a csv file)."""
    return _FOLDER / "text" / "calibration.csv"


def evaluation_texts() -> Path:
    """Return the path of the 2000 evaluation texts (columns text and label of a csv file)."""
    return _FOLDER / "text" / "evaluation.csv"
