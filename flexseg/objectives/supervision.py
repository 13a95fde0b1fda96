"""Deep supervision: one loss on every output of a model, added up.

    loss = Supervised(loss_named("ce_dice", num_classes=2, background=0), weights=(1.0, 0.5, 0.25))
    loss.example_loss(outputs, mask)                 # as a Loss, of a list of logits instead of one

The outputs lie at whatever sizes; each is raised to the mask's, bilinearly, as in the papers that have such outputs (UNet 3+, U²-Net, BASNet).
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import tensorflow as tf

from flexseg.objectives.loss import Loss, weighted_total
from flexseg.objectives.pixels import Pixels


@dataclasses.dataclass(frozen=True)
class Supervised:
    """The weighted sum of one loss over the outputs of a model.

    Args:
      loss: of one output.
      weights: of the outputs, the main one first.
    """

    loss: Loss
    weights: tuple[float, ...]

    @property
    def name(self) -> str:
        """That of the loss."""
        return self.loss.name

    def example_loss(self, outputs: Sequence[tf.Tensor], mask: tf.Tensor) -> tf.Tensor:
        """[B]: see `Loss.example_loss`; `outputs` are floating [B, h, w, K] each."""
        return tf.add_n([weight * self.loss.example_loss(raised(logits, mask), mask) for weight, logits in self._pairs(outputs)])

    def batch_loss(self, outputs: Sequence[tf.Tensor], mask: tf.Tensor, weight: tf.Tensor, sum_over_replicas: Callable) -> tf.Tensor:
        """Scalar: see `Loss.batch_loss`; the sums of all outputs cross the network together."""
        sums = [weighted_total(self.loss.sums(Pixels(raised(logits, mask), mask)), weight) for _, logits in self._pairs(outputs)]
        parts = tf.split(sum_over_replicas(tf.concat(sums, axis=0)), len(sums))
        return tf.add_n([factor * self.loss.value(part) for factor, part in zip(self.weights, parts, strict=True)])

    def _pairs(self, outputs: Sequence[tf.Tensor]) -> Iterable[tuple[float, tf.Tensor]]:
        return zip(self.weights, outputs, strict=True)


def raised(logits: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Logits [B, h, w, K] at the size of a mask [B, H, W, 1], bilinearly, in at least float32."""
    if logits.shape[1:3] == mask.shape[1:3]:
        return logits
    size = mask.shape[1:3] if mask.shape[1:3].is_fully_defined() else tf.shape(mask)[1:3]
    return tf.cast(tf.image.resize(logits, size), logits.dtype)


def main_output(outputs: tf.Tensor | Sequence[tf.Tensor]) -> tf.Tensor:
    """The logits that predictions are made of: a model's only output, or the first."""
    return outputs[0] if isinstance(outputs, (list, tuple)) else outputs
