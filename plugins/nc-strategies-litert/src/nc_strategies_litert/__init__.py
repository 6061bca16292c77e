"""The backend ``litert``: int8 models for LiteRT (TensorFlow Lite) on the CPU, and its model format ``tflite``."""

from nc_strategies.api import Component, hookimpl
from nc_strategies_litert.settings import LiteRtSettings, TfliteModelSettings

__all__ = ["LiteRtSettings", "TfliteModelSettings", "ncs_components", "ncs_contract"]
ncs_contract = 1


@hookimpl
def ncs_components() -> list[Component]:
    """See the hook."""
    return [
        Component(
            "backend",
            "litert",
            "nc_strategies_litert.backend:LiteRtBackend",
            LiteRtSettings,
            "nc-strategies-litert",
            ".tflite models on LiteRT's CPU kernels (XNNPACK)",
        ),
        Component(
            "model",
            "tflite",
            "nc_strategies_litert.model:TfliteModel",
            TfliteModelSettings,
            "nc-strategies-litert",
            "a floating-point .tflite file",
        ),
    ]
