"""Deep supervision: the weighted sum of a loss over all outputs of a model.

    loss = Supervised(loss_named("ce_dice", num_classes=2, background=0), weights=(1.0, 0.5, 0.25))
    loss.example_loss(outputs, mask)                 # as of a Loss, but with a list of logits

Outputs of any size are upsampled to the size of the mask, bilinearly, as in UNet 3+, U²-Net and BASNet.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import tensorflow as tf

from flexseg.objectives.loss import Loss, weighted_total
from flexseg.objectives.pixels import Pixels


@dataclasses.dataclass(frozen=True)
class Supervised:
    """Deep supervision loss.

    Args:
      loss: the loss of one output.
      weights: weight of each output, the main output first.
    """

    loss: Loss
    weights: tuple[float, ...]

    @property
    def name(self) -> str:
        """The name of the loss."""
        return self.loss.name

    def example_loss(self, outputs: Sequence[tf.Tensor], mask: tf.Tensor) -> tf.Tensor:
        """[B]: see `Loss.example_loss`; each of `outputs` is floating [B, h, w, K]."""
        return tf.add_n([weight * self.loss.example_loss(upsampled(logits, mask), mask) for weight, logits in self._pairs(outputs)])

    def batch_loss(self, outputs: Sequence[tf.Tensor], mask: tf.Tensor, weight: tf.Tensor, sum_over_replicas: Callable) -> tf.Tensor:
        """Scalar: see `Loss.batch_loss`; calls `sum_over_replicas` once for all outputs."""
        sums = [weighted_total(self.loss.sums(Pixels(upsampled(logits, mask), mask)), weight) for _, logits in self._pairs(outputs)]
        parts = tf.split(sum_over_replicas(tf.concat(sums, axis=0)), len(sums))
        return tf.add_n([factor * self.loss.value(part) for factor, part in zip(self.weights, parts, strict=True)])

    def _pairs(self, outputs: Sequence[tf.Tensor]) -> Iterable[tuple[float, tf.Tensor]]:
        return zip(self.weights, outputs, strict=True)


def upsampled(logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Upsamples logits [B, h, w, K] bilinearly to the size of a mask [B, H, W, 1], in at least float32."""
    if logits.shape[1:3] == mask.shape[1:3]:
        return logits
    size = mask.shape[1:3] if mask.shape[1:3].is_fully_defined() else tf.shape(mask)[1:3]
    return tf.cast(tf.image.resize(logits, size), logits.dtype)


def main_output(outputs: tf.Tensor | Sequence[tf.Tensor]) -> tf.Tensor:
    """The logits to predict from: the only or first output of a model."""
    return outputs[0] if isinstance(outputs, (list, tuple)) else outputs
