"""Post-training int8 quantization, tuned: the fastest model that keeps the accuracy asked for.

Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    import nc_strategies.quantization as quantization
    from nc_strategies import api, config
    from nc_strategies.app.studies import Study
    from nc_strategies.app.tuning import tune
    from nc_strategies.compat.neural_compressor import AccuracyCriterion, PostTrainingQuantConfig, TuningCriterion
    from nc_strategies.errors import EngineError, InputError, NcsError
else:
    _PLACES = {
        "AccuracyCriterion": "nc_strategies.compat.neural_compressor",
        "EngineError": "nc_strategies.errors",
        "InputError": "nc_strategies.errors",
        "NcsError": "nc_strategies.errors",
        "PostTrainingQuantConfig": "nc_strategies.compat.neural_compressor",
        "Study": "nc_strategies.app.studies",
        "TuningCriterion": "nc_strategies.compat.neural_compressor",
        "tune": "nc_strategies.app.tuning",
    }

    def __getattr__(name: str) -> object:
        if name in ("api", "config", "quantization"):
            return importlib.import_module(f"nc_strategies.{name}")
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_PLACES[name]), name)

    def __dir__() -> list[str]:
        return [*globals(), *__all__]


__all__ = [
    "tune", "Study", "quantization", "config", "api",
    "PostTrainingQuantConfig", "TuningCriterion", "AccuracyCriterion",
    "NcsError", "InputError", "EngineError",
]  # fmt: skip
