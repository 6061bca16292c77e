"""The components that come with the package, offered through the hooks a plugin uses."""

from __future__ import annotations

from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.backends.tensorflow.settings import TensorFlowSettings
from nc_strategies.data.settings import NpzSettings, SampleDataSettings
from nc_strategies.measure.settings import PlainSettings, SklearnSettings, TopKSettings
from nc_strategies.models.source import FileModelSettings, SampleModelSettings
from nc_strategies.registry.component import Component
from nc_strategies.registry.hookspecs import hookimpl
from nc_strategies.strategies.basic import BasicSettings
from nc_strategies.strategies.ilp.settings import IlpSettings
from nc_strategies.strategies.random import RandomSettings
from nc_strategies.study.executor import SerialSettings

METRICS = "nc_strategies.measure.metrics"


@hookimpl
def ncs_components() -> list[Component]:
    """See the hook."""
    return [
        Component("strategy", "basic", "nc_strategies.strategies.basic:BasicStrategy", BasicSettings,
                  summary="staged: default int8, combinations by operator type, recipes, fallback by operator"),
        Component("strategy", "ilp", "nc_strategies.strategies.ilp.strategy:IlpStrategy", IlpSettings,
                  summary="integer program: least predicted latency within the loss allowed, corrected by trials"),
        Component("strategy", "random", "nc_strategies.strategies.random:RandomStrategy", RandomSettings,
                  summary="uniform random search, the yardstick"),
        Component("backend", "onnxruntime", "nc_strategies.backends.onnxruntime.backend:OnnxRuntimeBackend",
                  OnnxRuntimeSettings, "nc-strategies[onnxruntime]", "static int8 QDQ models on onnxruntime's CPU"),
        Component("backend", "tensorflow", "nc_strategies.backends.tensorflow.backend:TensorFlowBackend",
                  TensorFlowSettings, "nc-strategies[tensorflow]",
                  "SavedModels with TensorFlow's own fused int8 kernels"),
        Component("metric", "top1", f"{METRICS}:Top1", PlainSettings, summary="accuracy"),
        Component("metric", "topk", f"{METRICS}:TopK", TopKSettings, summary="class among the k highest outputs"),
        *(Component("metric", name, f"{METRICS}:ClassificationScore", SklearnSettings,
                    "nc-strategies[metrics]", f"{name} (scikit-learn)")
          for name in ("f1", "precision", "recall", "log_loss")),
        *(Component("metric", name, f"{METRICS}:RegressionError", PlainSettings, summary=text)
          for name, text in (("mae", "mean absolute error"), ("mse", "mean squared error"))),
        Component("model", "sample", "nc_strategies.models.source:SampleModel", SampleModelSettings,
                  summary="the bundled Fashion-MNIST classifier"),
        *(Component("model", name, "nc_strategies.models.source:FileModel", FileModelSettings, summary=text)
          for name, text in (("onnx", "an .onnx file"), ("keras", "a .keras or .h5 file"),
                             ("saved_model", "a SavedModel folder"), ("graph_def", "a frozen graph, a .pb file"))),
        Component("data", "sample", "nc_strategies.data.loaders:SampleData", SampleDataSettings,
                  summary="the bundled Fashion-MNIST pictures"),
        Component("data", "npz", "nc_strategies.data.loaders:NpzData", NpzSettings,
                  summary="arrays x and y in .npz files"),
        Component("executor", "serial", "nc_strategies.study.executor:SerialExecutor", SerialSettings,
                  summary="one trial after the other, in this process"),
    ]
