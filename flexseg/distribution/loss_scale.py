"""The dynamic loss scale of float16 training.

Micikevicius et al. 2018 (arXiv 1710.03740), section 3.2: small gradients vanish in float16 unless the loss is multiplied by a large
number first. The scale doubles after `growth_steps` applied steps in a row and halves at every step that was skipped.
The decision is the step's one finite flag, taken after the all-reduce, so that all replicas agree (keras#20763).
"""

import tensorflow as tf

INITIAL = 2.0**15
LARGEST, SMALLEST = 2.0**24, 1.0


class LossScale(tf.Module):
    """Scale and growth count, to be made inside a strategy's scope; both are saved with the training state.

    Args:
      dynamic: whether the scale moves (float16); otherwise it is 1 for ever.
      growth_steps: applied steps in a row after which the scale doubles.
      dtype: of the losses it multiplies.
    """

    def __init__(self, *, dynamic: bool, growth_steps: int, dtype: str = "float32"):
        super().__init__(name="loss_scale")
        options = {"trainable": False, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
        self.dynamic, self._growth_steps = dynamic, growth_steps
        self.scale = tf.Variable(INITIAL if dynamic else 1.0, dtype=dtype, name="scale", **options)
        self.good_steps = tf.Variable(0, dtype=tf.int64, name="good_steps", **options)

    def applied(self) -> None:
        """After a step that was applied (cross-replica context)."""
        if not self.dynamic:
            return
        good = self.good_steps + 1
        grow = good >= self._growth_steps
        self.scale.assign(tf.where(grow, tf.minimum(self.scale * 2, LARGEST), self.scale))
        self.good_steps.assign(tf.where(grow, tf.zeros_like(good), good))

    def skipped(self) -> None:
        """After a step that was skipped (cross-replica context)."""
        if not self.dynamic:
            return
        self.scale.assign(tf.maximum(self.scale / 2, SMALLEST))
        self.good_steps.assign(0)
