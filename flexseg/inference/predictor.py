"""Predictor: forward pass and inverse resize, for evaluation, epoch pictures and `flexseg predict`.

    predictor = Predictor(replicas, model, network, inputs=inputs, size=(512, 512), xla=False)
    ids = predictor.predict([image])[0]                       # uint8 [h, w, C] -> uint8 [h, w]
    values, cases = predictor.step(batch)                     # a batch of `evaluation_batches`

Every command uses it, so a case has the same mask everywhere.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from flexseg.data.preprocessing import fitted_to, preprocess, to_own_size
from flexseg.data.settings import InputSettings
from flexseg.distribution.replicas import Replicas
from flexseg.distribution.step import EvaluationStep, sum_over_replicas
from flexseg.errors import UserError
from flexseg.objectives.step_metrics import StepMetrics
from flexseg.objectives.supervision import main_output


def probabilities(logits: tf.Tensor) -> tf.Tensor:
    """Logits [..., K] -> probabilities float32 [..., K]: softmax, or sigmoid for K = 1."""
    logits = tf.cast(logits, tf.float32)
    return tf.sigmoid(logits) if logits.shape[-1] == 1 else tf.nn.softmax(logits)


def class_ids(scores: tf.Tensor) -> np.ndarray:
    """Probabilities [h, w, K] -> class ids uint8 [h, w]: argmax, or a threshold of 0.5 for K = 1."""
    if scores.shape[-1] == 1:
        return (scores[..., 0] > 0.5).numpy().astype(np.uint8)
    return tf.argmax(scores, axis=-1).numpy().astype(np.uint8)


class Predictor:
    """Inference with one model over all replicas.

    Args:
      replicas: the devices.
      model: gives the weights.
      network: the same architecture with the evaluation input size, often `model` itself; only its graph is used.
      inputs: settings of the preprocessing.
      size: (height, width) of the evaluation input.
      xla: compile the forward pass with XLA.
      step_metrics: loss and metrics to compute in `step`; None without ground truth.
    """

    def __init__(
        self,
        replicas: Replicas,
        model: keras.Model,
        network: keras.Model,
        *,
        inputs: InputSettings,
        size: tuple[int, int],
        xla: bool,
        step_metrics: StepMetrics | None = None,
    ):
        self.replicas, self.inputs, self.size = replicas, inputs, size
        self.channels = network.inputs[0].shape[-1]
        self._network, self._step_metrics = network, step_metrics
        self._step = EvaluationStep(replicas, model, self._forward, xla=xla)

    def _forward(self, weights: list[tf.Tensor], state: list[tf.Tensor], batch: dict) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        outputs, _ = self._network.stateless_call(weights, state, tf.cast(batch["image"], self._network.inputs[0].dtype), training=False)
        output = {name: batch[name] for name in ("index", "weight")} | {"probabilities": probabilities(main_output(outputs))}
        if self._step_metrics is None:
            return tf.zeros([1]), output
        summed = sum_over_replicas if self.replicas.count > 1 else tf.identity
        _, values = self._step_metrics(
            outputs, batch["mask"], batch["weight"], total_weight=None, replicas=self.replicas.count, sum_over_replicas=summed
        )
        return values, output

    def step(self, batch: dict) -> tuple[tf.Tensor, list[tuple[int, tf.Tensor]]]:
        """Runs the forward pass on a distributed batch.

        Returns:
          (values float [n] of `StepMetrics` over the global batch, [(index, probabilities float32 [H, W, K])] of the examples that are not padding).

        Raises:
          UserError: out of memory.
        """
        try:
            values, outputs = self._step(batch)
        except tf.errors.ResourceExhaustedError as error:
            examples = len(self.replicas.local(batch["weight"])[0])
            smaller = '--gin_param="eval.batch_size=1", or ' if examples > 1 else ""
            raise UserError(
                "eval.batch_size" if examples > 1 else "input.eval_image_size",
                expected="a batch that fits into the device's memory",
                found=f"out of memory with {examples} of {self.size[0]} × {self.size[1]} pixels on a device",
                cure=f"{smaller}a smaller input.eval_image_size",
            ) from error
        cases = []
        for output in outputs:
            index, weight = output["index"].numpy(), output["weight"].numpy()
            cases += [(int(index[i]), output["probabilities"][i]) for i in np.flatnonzero(weight)]
        return values, cases

    def ids(self, scores: tf.Tensor, own_size: tuple[int, int]) -> np.ndarray:
        """Resizes probabilities [H, W, K] back to the case's own size and returns class ids uint8 [h, w]."""
        with tf.device("CPU:0"):
            return class_ids(to_own_size(scores, own_size=own_size, fit=self.inputs.evaluation_fit))

    def predict(self, images: Sequence[np.ndarray], *, between_batches: Callable[[], None] = lambda: None) -> list[np.ndarray]:
        """Predicts images uint8 [h, w, C] of any sizes, one per replica at a time; returns class ids uint8 [h, w].

        Padded inputs limit the size of an image (`check_size`). `between_batches` is called before each batch and may raise.
        """
        found = [np.zeros(image.shape[:2], np.int32) for image in images]
        for start in range(0, len(images), self.replicas.count):
            between_batches()
            group = [self._input(image) for image in images[start : start + self.replicas.count]]
            group += group[:1] * (self.replicas.count - len(group))
            count = len(group)
            batch = {"image": np.stack(group), "weight": np.ones(count, np.float32), "index": np.arange(count)}
            if self._step_metrics is not None:
                batch["mask"] = np.zeros([count, *self.size, 1], np.uint8)
            for index, scores in self.step(self.replicas.shard(batch))[1]:
                if start + index < len(images):
                    found[start + index] += self.ids(scores, images[start + index].shape[:2])
        return [self.replicas.sum_over_workers(ids).astype(np.uint8) for ids in found]  # each worker has predicted some

    def check_size(self, size: tuple[int, int], *, where: object) -> None:
        """Raises a UserError, naming `where`, if an image of `size` = (height, width) is larger than the padded input."""
        if self.inputs.evaluation_fit == "pad" and (size[0] > self.size[0] or size[1] > self.size[1]):
            raise UserError(
                where,
                expected=f"at most {self.size[0]} × {self.size[1]} pixels, the evaluation input of a run that pads",
                found=f"{size[0]} × {size[1]}",
                cure="--gin_param=\"input.eval_fit='resize'\", or a larger input.eval_image_size",
            )

    def _input(self, image: np.ndarray) -> np.ndarray:
        with tf.device("CPU:0"):
            no_mask = tf.zeros([*image.shape[:2], 1], tf.uint8)
            return preprocess(tf.constant(image), no_mask, self.inputs, fit=fitted_to(self.size, self.inputs.evaluation_fit))[0].numpy()
