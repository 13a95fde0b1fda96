"""Keras's Adam and SGD with one TensorFlow kernel for the update of a weight, where Keras takes a dozen.

    optimizer = FusedAdam(1e-3)                       # in the replicas' scope
    optimizer.build(model.trainable_variables)
    scalars = optimizer.scalars(rate)                 # once a step
    optimizer.update_weight(gradient, variable, scalars)      # inside `strategy.extended.update`

Same formulas, same variables, same defaults as Keras; clipping, weight decay and averages stand in the step. An update waits for the decision
whether the step counts, so nothing hides its time: BUILD_NOTES.md has the figures.
"""

import keras
import tensorflow as tf


class FusedAdam(keras.optimizers.Adam):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980, in the order of computation before its section 2.1), updated by `ResourceApplyAdam`."""

    def scalars(self, learning_rate: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """(rate, beta_1 ** t, beta_2 ** t) in the rate's dtype, t counting applied updates from 1."""
        dtype = learning_rate.dtype
        count = tf.cast(tf.convert_to_tensor(self.iterations.value) + 1, dtype)
        return learning_rate, tf.pow(tf.constant(self.beta_1, dtype), count), tf.pow(tf.constant(self.beta_2, dtype), count)

    def update_weight(self, gradient: tf.Tensor, variable: tf.Variable, scalars: tuple[tf.Tensor, ...]) -> None:
        """Updates one weight and its moments on the device at hand; `gradient` and `scalars` have the weight's dtype."""
        rate, beta_1_power, beta_2_power = scalars
        index = self._get_variable_index(variable)
        constant = {name: tf.constant(getattr(self, name), rate.dtype) for name in ("beta_1", "beta_2", "epsilon")}
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=self._momentums[index].value.handle, v=self._velocities[index].value.handle,
            beta1_power=beta_1_power, beta2_power=beta_2_power, lr=rate,
            beta1=constant["beta_1"], beta2=constant["beta_2"], epsilon=constant["epsilon"], grad=gradient,
        )  # fmt: skip


class FusedSGD(keras.optimizers.SGD):
    """SGD with or without (Nesterov) momentum as Keras defines it, updated by `ResourceApplyKerasMomentum`."""

    def scalars(self, learning_rate: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """(rate,)."""
        return (learning_rate,)

    def update_weight(self, gradient: tf.Tensor, variable: tf.Variable, scalars: tuple[tf.Tensor, ...]) -> None:
        """Updates one weight and its momentum on the device at hand; `gradient` and `scalars` have the weight's dtype."""
        (rate,) = scalars
        if self.momentum == 0:
            tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=gradient)
            return
        momentum = self.momentums[self._get_variable_index(variable)].value
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle, accum=momentum.handle, lr=rate, grad=gradient, momentum=tf.constant(self.momentum, rate.dtype),
            use_nesterov=self.nesterov,
        )  # fmt: skip
