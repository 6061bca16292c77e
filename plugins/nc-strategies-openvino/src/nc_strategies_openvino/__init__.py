"""The OpenVINO backend. This module is loaded at every start: it imports nothing heavy."""

from nc_strategies.api import Component, hookimpl
from nc_strategies_openvino.settings import OpenVinoSettings

__all__ = ["OpenVinoSettings", "ncs_components", "ncs_contract"]
ncs_contract = 1


@hookimpl
def ncs_components() -> list[Component]:
    """See the hook."""
    return [
        Component(
            "backend",
            "openvino",
            "nc_strategies_openvino.backend:OpenVinoBackend",
            OpenVinoSettings,
            "nc-strategies-openvino",
            "static int8 on OpenVINO's CPU kernels; saves OpenVINO IR and the ONNX model",
        )
    ]
