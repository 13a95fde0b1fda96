"""Keras's Adam and SGD with a fused update: one TensorFlow kernel per variable, where Keras runs a dozen.

    optimizer = FusedAdam(1e-3)                       # in the scope of the strategy
    optimizer.build(model.trainable_variables)
    scalars = optimizer.scalars(rate)                 # once per step
    optimizer.update_weight(gradient, variable, scalars)      # inside `strategy.extended.update`

Formulas, variables and defaults are Keras's. Gradient clipping, weight decay and EMA are in `TrainStep`. The update waits for the finite check of the
step, so nothing overlaps with it; docs/measurements.md has the times.
"""

import keras
import tensorflow as tf


class FusedAdam(keras.optimizers.Adam):
    """Adam with `ResourceApplyAdam` (Kingma and Ba 2015, arXiv 1412.6980, in the order of computation before section 2.1)."""

    def scalars(self, learning_rate: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """(learning rate, beta_1 ** t, beta_2 ** t) in the dtype of the rate; t counts applied updates from 1."""
        dtype = learning_rate.dtype
        count = tf.cast(tf.convert_to_tensor(self.iterations.value) + 1, dtype)
        return learning_rate, tf.pow(tf.constant(self.beta_1, dtype), count), tf.pow(tf.constant(self.beta_2, dtype), count)

    def update_weight(self, gradient: tf.Tensor, variable: tf.Variable, scalars: tuple[tf.Tensor, ...]) -> None:
        """Updates a variable and its moments on the current device; `gradient` and `scalars` have the dtype of the variable."""
        rate, beta_1_power, beta_2_power = scalars
        index = self._get_variable_index(variable)
        constant = {name: tf.constant(getattr(self, name), rate.dtype) for name in ("beta_1", "beta_2", "epsilon")}
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=self._momentums[index].value.handle, v=self._velocities[index].value.handle,
            beta1_power=beta_1_power, beta2_power=beta_2_power, lr=rate,
            beta1=constant["beta_1"], beta2=constant["beta_2"], epsilon=constant["epsilon"], grad=gradient,
        )  # fmt: skip


class FusedSGD(keras.optimizers.SGD):
    """SGD with Keras's momentum and Nesterov momentum, by `ResourceApplyKerasMomentum`."""

    def scalars(self, learning_rate: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """(learning rate,)."""
        return (learning_rate,)

    def update_weight(self, gradient: tf.Tensor, variable: tf.Variable, scalars: tuple[tf.Tensor, ...]) -> None:
        """Updates a variable and its momentum on the current device; `gradient` and `scalars` have the dtype of the variable."""
        (rate,) = scalars
        if self.momentum == 0:
            tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=gradient)
            return
        momentum = self.momentums[self._get_variable_index(variable)].value
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle, accum=momentum.handle, lr=rate, grad=gradient, momentum=tf.constant(self.momentum, rate.dtype),
            use_nesterov=self.nesterov,
        )  # fmt: skip
