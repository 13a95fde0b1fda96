"""Assembly: builds model, step metrics and predictor of an experiment, for training, evaluation and prediction.

    experiment = Experiment.from_gin()
    assembly = Assembly(experiment, dataset, replicas, precision="mixed_bfloat16", xla="auto")
    assembly.model, assembly.step_metrics, assembly.predictor

It has no optimizer and no input pipeline; these are in `Steps`.
"""

import contextlib
import os
from collections.abc import Iterator

import keras
import tensorflow as tf

from flexseg.data.dataset import BuiltDataset
from flexseg.data.preprocessing import Preprocessing
from flexseg.data.settings import InputSettings
from flexseg.distribution.replicas import Replicas
from flexseg.errors import UserError
from flexseg.inference.eval_fit import splitter_for
from flexseg.inference.predictor import Predictor
from flexseg.models.build import build_model
from flexseg.models.pretrained import encoder_of
from flexseg.objectives.metrics import metric_named
from flexseg.objectives.step_metrics import StepMetrics
from flexseg.objectives.supervision import main_output
from flexseg.runs.variables import model_variables
from flexseg.training.experiment import Experiment
from flexseg.training.precision import resolve_xla

ALWAYS_FOLLOWED = "mean_foreground_dice"  # computed in every run


class Assembly:
    """Model, step metrics and predictor of an experiment.

    Args:
      experiment: the settings.
      dataset: gives classes, channels and image sizes; only its manifest is read.
      replicas: the devices.
      precision: the resolved Keras dtype policy. The caller keeps `precision_scope` open.
      xla: `auto`, `on` or `off`.

    Raises:
      UserError: an invalid model, metric or combination of settings.
    """

    def __init__(self, experiment: Experiment, dataset: BuiltDataset, replicas: Replicas, *, precision: str, xla: str):
        inputs, objective = experiment.inputs, experiment.objective
        self.precision, self.replicas = precision, replicas
        channels, classes = dataset.manifest.channels, dataset.label_map.num_classes
        if channels == 1 and inputs.color_order == "BGR":
            raise UserError("input.color_order", expected="'RGB' for images of one channel", found="'BGR'")
        self.evaluation_size = inputs.evaluation_size(dataset.largest())
        keras.utils.set_random_seed(experiment.train.seed)
        with replicas.scope():
            self.model = build_model(image_size=tuple(inputs.image_size), channels=channels, classes=classes)
            if self.evaluation_size == tuple(inputs.image_size):
                network = self.model
            else:
                network = self._evaluation_network(inputs, channels=channels, classes=classes)
        encoder = encoder_of(self.model)
        if inputs.color_order == "BGR" and encoder is not None and encoder.source.weights is not None:
            expected = f"'RGB' with {encoder.source.owner}.encoder_weights, whose pixel normalization knows red from blue"
            raise UserError("input.color_order", expected=expected, found="'BGR'", cure="--gin_param=\"input.color_order='RGB'\"")
        head = {"num_classes": main_output(self.model.output).shape[-1], "background": dataset.label_map.background}
        names = list(dict.fromkeys([*experiment.train.metrics, ALWAYS_FOLLOWED]))
        self.step_metrics = StepMetrics(
            loss=objective.bind(**head, outputs=len(keras.tree.flatten(self.model.output))),
            reduction=objective.reduction,
            metrics=[metric_named(name, **head) for name in names],
        )
        self.xla = resolve_xla(xla, on_gpu=replicas.on_gpu, excluded_by=self._excluded(experiment))
        self.predictor = Predictor(
            replicas,
            self.model,
            network,
            preprocessing=Preprocessing(inputs),
            splitter=splitter_for(inputs, size=self.evaluation_size),
            xla=self.xla,
            step_metrics=self.step_metrics,
        )

    def _evaluation_network(self, inputs: InputSettings, *, channels: int, classes: int) -> keras.Model:
        try:
            network = build_model(image_size=self.evaluation_size, channels=channels, classes=classes)
        except UserError as error:  # it names input.image_size, but input.eval_image_size is wrong
            height, width = (-(-own // side) * side for own, side in zip(self.evaluation_size, inputs.image_size, strict=True))
            raise UserError(
                "input.eval_image_size",
                expected=error.expected,
                found=f"{self.evaluation_size[0]} × {self.evaluation_size[1]}",
                cure=f'--gin_param="input.eval_image_size=({height},{width})"',
            ) from error
        if any(one.shape != other.shape for one, other in zip(self.model.weights, network.weights, strict=True)):
            raise UserError(
                "input.eval_image_size",
                expected=f"the size of training, {inputs.image_size[0]} × {inputs.image_size[1]}, to which the weights of {self.model.name} belong",
                found=f"{self.evaluation_size[0]} × {self.evaluation_size[1]}",
                cure="--gin_param=\"input.fit='resize'\", and no input.eval_image_size",
            )
        return network

    def _excluded(self, experiment: Experiment) -> list[str]:
        """Settings that XLA does not support: op determinism (the gradient of max pooling raises), collectives in the forward pass."""
        found = {
            "train.deterministic": experiment.train.deterministic,
            "sync_batch normalization": self.synchronized,
            "objective.reduction = 'batch' on several replicas": experiment.objective.reduction == "batch" and self.replicas.count > 1,
        }
        return [name for name, holds in found.items() if holds]

    @property
    def synchronized(self) -> bool:
        """Whether the model has synchronized batch normalization."""
        return any(getattr(layer, "synchronized", False) for layer in self.layers())

    def layers(self) -> Iterator[keras.layers.Layer]:
        """All layers of the model, nested models included."""
        return _layers(self.model)

    @property
    def parameters(self) -> int:
        """Number of parameters, trainable or not, without dropout seeds."""
        return sum(int(tf.size(v.value)) for v in model_variables(self.model))

    def summary(self) -> str:
        """Keras's summary table of the model, 120 characters wide."""
        lines: list[str] = []
        with _terminal_width(120):
            self.model.summary(print_fn=lines.append, line_length=120)
        return "\n".join(lines) + "\n"


@contextlib.contextmanager
def _terminal_width(columns: int) -> Iterator[None]:
    """Sets the width of rich's tables, which Keras prints; rich cuts them at the terminal width (80 without a terminal)."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(columns)
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """All layers of a model, nested models included."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
