"""LossScale: dynamic loss scaling for mixed_float16, as Keras's LossScaleOptimizer (Micikevicius et al. 2018, arXiv 1710.03740, section 3.2).

    loss_scale = LossScale(dynamic=True, growth_steps=2000)      # in the scope of the strategy
    loss_scale.applied()                                        # or skipped()

The scale doubles after `growth_steps` consecutive applied steps and halves after a skipped step. `TrainStep` decides after the all-reduce, so that
all replicas agree (keras#20763).
"""

import tensorflow as tf

INITIAL = 2.0**15
LARGEST, SMALLEST = 2.0**24, 1.0


class LossScale(tf.Module):
    """Loss scale and step counter. Make it in the scope of the strategy; checkpoints save both variables.

    Args:
      dynamic: whether the scale changes (float16); otherwise it stays 1.
      growth_steps: consecutive applied steps after which the scale doubles.
      dtype: dtype of the loss.
    """

    def __init__(self, *, dynamic: bool, growth_steps: int, dtype: str = "float32"):
        super().__init__(name="loss_scale")
        options = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        self.dynamic, self._growth_steps = dynamic, growth_steps
        self.scale = tf.Variable(INITIAL if dynamic else 1.0, dtype=dtype, name="scale", **options)
        self.good_steps = tf.Variable(0, dtype=tf.int64, name="good_steps", **options)

    def applied(self) -> None:
        """Updates the scale after an applied step, in cross-replica context."""
        if not self.dynamic:
            return
        good = self.good_steps + 1
        grow = good >= self._growth_steps
        self.scale.assign(tf.where(grow, tf.minimum(self.scale * 2, LARGEST), self.scale))
        self.good_steps.assign(tf.where(grow, tf.zeros_like(good), good))

    def skipped(self) -> None:
        """Updates the scale after a skipped step, in cross-replica context."""
        if not self.dynamic:
            return
        self.scale.assign(tf.maximum(self.scale / 2, SMALLEST))
        self.good_steps.assign(0)
