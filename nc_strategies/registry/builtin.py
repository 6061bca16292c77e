"""The components of this package, registered through the hooks that plugins use."""

from __future__ import annotations

from nc_strategies.backends.onnxruntime.settings import OnnxRuntimeSettings
from nc_strategies.backends.tensorflow.settings import TensorFlowSettings
from nc_strategies.data.settings import (
    CsvSettings,
    HuggingFaceDataSettings,
    ImageFolderSettings,
    NpzSettings,
    PythonDataSettings,
    SampleDataSettings,
    SampleTextSettings,
    TextSettings,
    TfdsSettings,
)
from nc_strategies.metrics.settings import (
    AnswerSettings,
    AucSettings,
    ClassFidelitySettings,
    CocoMapSettings,
    CorrelationSettings,
    ErrorRateSettings,
    FidelitySettings,
    KlDivergenceSettings,
    MaxAbsErrorSettings,
    MeanIoUSettings,
    PerplexitySettings,
    PlainSettings,
    PythonMetricSettings,
    SklearnSettings,
    SqnrSettings,
    TokenF1Settings,
    Top1Settings,
    TopKSettings,
)
from nc_strategies.models.settings import HuggingFaceModelSettings, KerasApplicationsSettings, PythonModelSettings
from nc_strategies.models.source import FileModelSettings, SampleModelSettings, SampleTextModelSettings
from nc_strategies.registry.component import Component
from nc_strategies.registry.hookspecs import hookimpl
from nc_strategies.strategies.ilp.settings import IlpSettings
from nc_strategies.strategies.settings import (
    AutoSettings,
    BasicSettings,
    ConservativeSettings,
    ExhaustiveSettings,
    HawqV2Settings,
    MseSettings,
    MseV2Settings,
    RandomSettings,
)
from nc_strategies.study.executor import ProcessesSettings, SerialSettings
from nc_strategies.study.tracker import NoTrackerSettings

METRICS = "nc_strategies.metrics"
BUILT = "nc_strategies.models.built"
SKLEARN, TENSORFLOW = "nc-strategies[metrics]", "nc-strategies[tensorflow]"
TEXT = "nc-strategies[text]"


@hookimpl
def ncs_components() -> list[Component]:
    """See `nc_strategies.registry.hookspecs.ncs_components`."""
    return [
        Component(
            "strategy",
            "auto",
            "nc_strategies.strategies.auto:AutoStrategy",
            AutoSettings,
            summary="int8 everywhere, other modes, then whichever strategy is quickest to a fast model; the default",
        ),
        Component(
            "strategy",
            "basic",
            "nc_strategies.strategies.basic:BasicStrategy",
            BasicSettings,
            summary="staged: default int8, combinations by operator type, recipes, fallback by operator",
        ),
        Component(
            "strategy",
            "ilp",
            "nc_strategies.strategies.ilp.strategy:IlpStrategy",
            IlpSettings,
            summary="integer program: least predicted latency within the loss allowed, corrected by trials",
        ),
        *(
            Component("strategy", name, f"nc_strategies.strategies.{name}:{kind}", settings, summary=text)
            for name, kind, settings, text in (
                (
                    "conservative",
                    "ConservativeStrategy",
                    ConservativeSettings,
                    "from fp32: one operator type after the other, and what keeps the accuracy stays",
                ),
                ("exhaustive", "ExhaustiveStrategy", ExhaustiveSettings, "every configuration of a small space"),
                (
                    "hawq_v2",
                    "HawqV2Strategy",
                    HawqV2Settings,
                    "operators back to fp32 in the order of their Hessian traces; needs an engine with gradients",
                ),
                (
                    "mse_v2",
                    "MseV2Strategy",
                    MseV2Settings,
                    "the most sensitive operators back to fp32, then the least sensitive requantized",
                ),
                ("mse", "MseStrategy", MseSettings, "operators back to fp32 in the order of their output error"),
            )
        ),
        Component(
            "strategy",
            "random",
            "nc_strategies.strategies.random:RandomStrategy",
            RandomSettings,
            summary="uniform random search, a reference for other strategies",
        ),
        Component(
            "backend",
            "onnxruntime",
            "nc_strategies.backends.onnxruntime.backend:OnnxRuntimeBackend",
            OnnxRuntimeSettings,
            "nc-strategies[onnxruntime]",
            "int8 models, static, dynamic or of weights only, on onnxruntime's CPU kernels",
        ),
        Component(
            "backend",
            "tensorflow",
            "nc_strategies.backends.tensorflow.backend:TensorFlowBackend",
            TensorFlowSettings,
            "nc-strategies[tensorflow]",
            "SavedModels with the fused int8 kernels of stock TensorFlow",
        ),
        Component("metric", "top1", f"{METRICS}.classification:Top1", Top1Settings, summary="accuracy"),
        Component(
            "metric",
            "topk",
            f"{METRICS}.classification:TopK",
            TopKSettings,
            summary="share of samples whose class is among the k highest outputs",
        ),
        *(
            Component(
                "metric",
                name,
                f"{METRICS}.classification:ClassificationScore",
                SklearnSettings,
                SKLEARN,
                f"{name} (scikit-learn)",
            )
            for name in ("f1", "precision", "recall")
        ),
        Component(
            "metric",
            "roc_auc",
            f"{METRICS}.classification:RocAuc",
            AucSettings,
            SKLEARN,
            "area under the ROC curve (scikit-learn)",
        ),
        Component("metric", "log_loss", f"{METRICS}.classification:LogLoss", PlainSettings, summary="cross-entropy"),
        *(
            Component("metric", name, f"{METRICS}.regression:RegressionError", PlainSettings, summary=text)
            for name, text in (("mae", "mean absolute error"), ("mse", "mean squared error"))
        ),
        Component(
            "metric",
            "rmse",
            f"{METRICS}.regression:RootMeanSquaredError",
            PlainSettings,
            summary="root of the mean squared error",
        ),
        Component(
            "metric",
            "r2",
            f"{METRICS}.regression:R2",
            PlainSettings,
            SKLEARN,
            "coefficient of determination (scikit-learn)",
        ),
        Component(
            "metric",
            "mean_iou",
            f"{METRICS}.segmentation:MeanIoU",
            MeanIoUSettings,
            summary="intersection over union of segmentations, mean over classes",
        ),
        Component(
            "metric",
            "coco_map",
            f"{METRICS}.detection:CocoMap",
            CocoMapSettings,
            "nc-strategies[coco]",
            "COCO's average precision of detections (pycocotools)",
        ),
        *(
            Component(
                "metric",
                name,
                f"{METRICS}.fidelity:{target}",
                schema,
                summary=f"fidelity to fp32, without labels: {text}",
            )
            for name, target, schema, text in (
                ("cosine", "Cosine", FidelitySettings, "cosine of the outputs"),
                ("top1_agreement", "Top1Agreement", ClassFidelitySettings, "share of equal classes"),
                ("sqnr", "Sqnr", SqnrSettings, "signal-to-quantization-noise ratio in dB"),
                ("kl_divergence", "KlDivergence", KlDivergenceSettings, "divergence of the probabilities in nats"),
                ("max_abs_error", "MaxAbsError", MaxAbsErrorSettings, "largest difference in a sample"),
            )
        ),
        Component(
            "metric",
            "token_f1",
            f"{METRICS}.spans:TokenF1",
            TokenF1Settings,
            summary="F1 of tagged entities, as seqeval computes it",
        ),
        *(
            Component("metric", name, f"{METRICS}.spans:Answer", AnswerSettings, summary=text)
            for name, text in (
                ("answer_exact_match", "share of answers in a text that are exactly right"),
                ("answer_f1", "F1 of the tokens of answers in a text"),
            )
        ),
        *(
            Component("metric", name, f"{METRICS}.transcription:ErrorRate", ErrorRateSettings, summary=text)
            for name, text in (("wer", "word error rate"), ("cer", "character error rate"))
        ),
        *(
            Component("metric", name, f"{METRICS}.similarity:Correlation", CorrelationSettings, summary=text)
            for name, text in (
                ("spearman", "rank correlation of similarities of embeddings"),
                ("pearson", "correlation of similarities of embeddings"),
            )
        ),
        Component(
            "metric",
            "perplexity",
            f"{METRICS}.language_model:Perplexity",
            PerplexitySettings,
            summary="perplexity of a language model's logits",
        ),
        Component(
            "metric",
            "python",
            f"{METRICS}.user:PythonMetric",
            PythonMetricSettings,
            summary="a function of your own: f(outputs, labels)",
        ),
        Component(
            "model",
            "sample",
            "nc_strategies.models.source:SampleModel",
            SampleModelSettings,
            summary="the bundled Fashion-MNIST classifier",
        ),
        Component(
            "model",
            "sample_text",
            "nc_strategies.models.source:SampleTextModel",
            SampleTextModelSettings,
            summary="the bundled language identifier, a small transformer",
        ),
        *(
            Component("model", name, "nc_strategies.models.source:FileModel", FileModelSettings, summary=text)
            for name, text in (
                ("onnx", "an .onnx file"),
                ("keras", "a .keras or .h5 file"),
                ("saved_model", "a SavedModel folder"),
                ("graph_def", "a frozen graph, a .pb file"),
            )
        ),
        Component(
            "model",
            "keras_applications",
            f"{BUILT}:KerasApplicationsModel",
            KerasApplicationsSettings,
            TENSORFLOW,
            "an architecture of keras.applications",
        ),
        Component(
            "model",
            "huggingface",
            f"{BUILT}:HuggingFaceModel",
            HuggingFaceModelSettings,
            "nc-strategies[huggingface]",
            "a transformers model, exported to ONNX by optimum",
        ),
        Component(
            "model",
            "python",
            f"{BUILT}:PythonModel",
            PythonModelSettings,
            summary="what a function of your own returns",
        ),
        Component(
            "data",
            "sample",
            "nc_strategies.data.loaders:SampleData",
            SampleDataSettings,
            summary="the bundled Fashion-MNIST pictures",
        ),
        Component(
            "data", "npz", "nc_strategies.data.loaders:NpzData", NpzSettings, summary="arrays x and y in .npz files"
        ),
        Component(
            "data",
            "image_folder",
            "nc_strategies.data.pictures:ImageFolderData",
            ImageFolderSettings,
            "nc-strategies[images]",
            "pictures in one folder per class (Pillow)",
        ),
        Component("data", "csv", "nc_strategies.data.table:CsvData", CsvSettings, summary="a table of numbers as text"),
        Component(
            "data",
            "text",
            "nc_strategies.data.text:TextData",
            TextSettings,
            TEXT,
            "texts in a .csv, .tsv or .jsonl file, with a tokenizer from a file (tokenizers)",
        ),
        Component(
            "data",
            "sample_text",
            "nc_strategies.data.text:SampleTextData",
            SampleTextSettings,
            TEXT,
            "the bundled messages in 24 languages",
        ),
        Component(
            "data",
            "tfds",
            "nc_strategies.data.hubs:TfdsData",
            TfdsSettings,
            "nc-strategies[tfds]",
            "a data set of TensorFlow Datasets",
        ),
        Component(
            "data",
            "huggingface",
            "nc_strategies.data.hubs:HuggingFaceData",
            HuggingFaceDataSettings,
            "nc-strategies[datasets]",
            "a data set of the Hugging Face hub, or of a folder in its format",
        ),
        Component(
            "data",
            "python",
            "nc_strategies.data.loaders:PythonData",
            PythonDataSettings,
            summary="what a function of your own returns",
        ),
        Component(
            "executor",
            "serial",
            "nc_strategies.study.executor:SerialExecutor",
            SerialSettings,
            summary="one trial after the other, in this process",
        ),
        Component(
            "executor",
            "processes",
            "nc_strategies.study.executor:ProcessesExecutor",
            ProcessesSettings,
            summary="one trial after the other, its samples evaluated by several processes",
        ),
        Component(
            "tracker",
            "none",
            "nc_strategies.study.tracker:NoTracker",
            NoTrackerSettings,
            summary="no tracker; a run writes to its own folder only",
        ),
    ]
