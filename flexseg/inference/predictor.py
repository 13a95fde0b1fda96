"""Predictor: class ids at an image's own size, for evaluation, epoch pictures and `flexseg predict` alike.

    predictor = Predictor(replicas, model, network, inputs=inputs, size=(512, 512), xla=False)
    ids = predictor.predict([image])[0]                       # uint8 [h, w, C] -> uint8 [h, w]
    values, cases = predictor.step(batch)                     # of an evaluation batch

One forward pass, one way back to the own size: the same case gives the same mask from every command.
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
    """float32 [..., K] of logits [..., K]: softmax, or the sigmoid of a single channel."""
    logits = tf.cast(logits, tf.float32)
    return tf.sigmoid(logits) if logits.shape[-1] == 1 else tf.nn.softmax(logits)


def class_ids(scores: tf.Tensor) -> np.ndarray:
    """uint8 [h, w] of probabilities [h, w, K]: the most probable class, or class 1 above one half for K = 1."""
    if scores.shape[-1] == 1:
        return (scores[..., 0] > 0.5).numpy().astype(np.uint8)
    return tf.argmax(scores, axis=-1).numpy().astype(np.uint8)


class Predictor:
    """Forward passes of one model over all replicas.

    Args:
      replicas: the devices.
      model: whose weights are used.
      network: the same architecture at the evaluation input's size (often `model` itself); only its graph is used.
      inputs: how an image becomes an input.
      size: (height, width) of the evaluation input.
      xla: compile the forward pass.
      step_metrics: what `evaluate` sums up beside the masks; None for a predictor that has no truth.
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

    def _forward(self, weights, state, batch):
        outputs, _ = self._network.stateless_call(weights, state, tf.cast(batch["image"], self._network.inputs[0].dtype), training=False)
        output = {name: batch[name] for name in ("index", "weight")} | {"probabilities": probabilities(main_output(outputs))}
        if self._step_metrics is None:
            return tf.zeros([1]), output
        summed = sum_over_replicas if self.replicas.count > 1 else tf.identity
        _, values = self._step_metrics(
            outputs, batch["mask"], batch["weight"], total_weight=None, replicas=self.replicas.count, sum_over_replicas=summed
        )
        return values, output

    def step(self, batch):
        """(values of the global batch float [n], [(index, probabilities float32 [H, W, K]) of every example that counts])."""
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
        """uint8 [h, w] at the case's own size from probabilities [H, W, K] of the network's input."""
        with tf.device("CPU:0"):
            return class_ids(to_own_size(scores, own_size=own_size, fit=self.inputs.evaluation_fit))

    def predict(self, images: Sequence[np.ndarray], *, between_batches: Callable[[], None] = lambda: None) -> list[np.ndarray]:
        """Class ids uint8 [h, w] of images uint8 [h, w, C] of any sizes, as many at a time as there are replicas.

        None may be larger than a padded input (`check_size`). What `between_batches` raises ends it.
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
        return [self.replicas.sum_over_workers(ids).astype(np.uint8) for ids in found]  # each worker predicted some of them

    def check_size(self, size: tuple[int, int], *, where: object) -> None:
        """Refuses an image of `size` = (height, width) that is larger than a padded input, with a UserError naming `where`."""
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
