"""Batch normalization in one kernel.

    x = BatchNormalization(momentum=0.99, name="encoder_0_norm_a")(x)

Keras 3 computes it from a dozen elementary operations unless XLA fuses them (keras#20003), which more than halves the training speed of a
U-Net. This layer is Keras's, with its variables, and only computes through TensorFlow's fused kernel where that exists: four dimensions,
channels last, up to 32 bits.
"""

import keras
import tensorflow as tf


class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over [B, H, W, C], not synchronized; same variables, same values up to rounding.

    Moving statistics take the biased variance, as Keras 3 does (the kernel returns the unbiased one).
    """

    def call(self, inputs: keras.KerasTensor, training: bool | None = None, mask: keras.KerasTensor | None = None) -> keras.KerasTensor:
        """Normalizes [B, H, W, C]; in training by the batch's statistics, which enter the moving ones."""
        if mask is not None or self.synchronized or len(inputs.shape) != 4 or self.compute_dtype == "float64":
            return super().call(inputs, training=training, mask=mask)
        training = bool(training) and self.trainable
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            tf.convert_to_tensor(tf.cast(self.gamma, "float32")),
            tf.convert_to_tensor(tf.cast(self.beta, "float32")),
            None if training else tf.cast(self.moving_mean, "float32"),
            None if training else tf.cast(self.moving_variance, "float32"),
            epsilon=self.epsilon,
            is_training=training,
        )
        if training:
            count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), "float32")
            biased = variance * (count - 1) / count
            self.moving_mean.assign(self.moving_mean * self.momentum + tf.stop_gradient(mean) * (1 - self.momentum))
            self.moving_variance.assign(self.moving_variance * self.momentum + tf.stop_gradient(biased) * (1 - self.momentum))
        return tf.cast(outputs, self.compute_dtype)
