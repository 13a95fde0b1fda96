"""Keras's convolutions and its Dense without two defects of TensorFlow 2.21 on CPUs.

    x = Conv2D(16, 3, padding="same")(x)                     # as keras.layers.Conv2D, which it is in float32 and float64

A bias's gradient is a sum over every pixel of the batch. TensorFlow's CPU kernel (`BiasAddGrad`, TF 2.21, without XLA) keeps that
sum in the dtype of its input: in bfloat16 it stops growing at a few hundred, so that 262,059 becomes 512, without any warning.
Here the sum runs in float32 and is rounded once.

The gradient of a 1x1 convolution with strides (8 channels to 16, strides 2, oneDNN) writes outside its memory: `malloc(): unaligned tcache chunk`,
or a segmentation fault. Here the positions that count are taken first. Networks import these layers from this file.
"""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("flexseg")
class Conv2D(keras.layers.Conv2D):
    """keras.layers.Conv2D; only the bias's gradient differs, and only in 16 bits."""

    def convolution_op(self, inputs: keras.KerasTensor, kernel: keras.KerasTensor) -> keras.KerasTensor:
        """The convolution without bias and activation."""
        if self.kernel_size != (1, 1) or self.strides == (1, 1):
            return super().convolution_op(inputs, kernel)
        rows, columns = self.strides
        return keras.ops.conv(inputs[:, ::rows, ::columns], kernel, data_format=self.data_format)

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """Features [B, H, W, channels] to [B, H', W', filters]."""
        x = self.convolution_op(inputs, self.kernel)
        return self.activation(add_bias(x, self.bias) if self.use_bias else x)


@keras.saving.register_keras_serializable("flexseg")
class Conv2DTranspose(keras.layers.Conv2DTranspose):
    """keras.layers.Conv2DTranspose; only the bias's gradient differs, and only in 16 bits."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """Features [B, H, W, channels] to [B, H', W', filters]."""
        x = keras.ops.conv_transpose(
            inputs,
            self.kernel,
            strides=self.strides,
            padding=self.padding,
            output_padding=self.output_padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )
        return self.activation(add_bias(x, self.bias) if self.use_bias else x)


@keras.saving.register_keras_serializable("flexseg")
class SeparableConv2D(keras.layers.SeparableConv2D):
    """keras.layers.SeparableConv2D; only the bias's gradient differs, and only in 16 bits."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """Features [B, H, W, channels] to [B, H', W', filters]."""
        x = keras.ops.separable_conv(
            inputs,
            self.depthwise_kernel,
            self.pointwise_kernel,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return self.activation(add_bias(x, self.bias) if self.use_bias else x)


@keras.saving.register_keras_serializable("flexseg")
class Dense(keras.layers.Dense):
    """keras.layers.Dense; only the bias's gradient differs, and only in 16 bits."""

    def call(self, inputs: keras.KerasTensor, training: bool | None = None) -> keras.KerasTensor:
        """Features [..., channels] to [..., units]."""
        x = keras.ops.matmul(inputs, self.kernel)
        return self.activation(add_bias(x, self.bias) if self.use_bias else x)


def add_bias(x: keras.KerasTensor, bias: keras.KerasTensor) -> keras.KerasTensor:
    """x [..., C] + bias [C], in x's dtype; the bias's gradient is summed in at least float32."""
    if x.dtype not in (tf.bfloat16, tf.float16):
        return keras.ops.add(x, keras.ops.reshape(bias, (1,) * (len(x.shape) - 1) + (-1,)))
    return _add_bias_16(x, tf.cast(tf.convert_to_tensor(bias), x.dtype))  # tf.custom_gradient takes tensors, no variables


@tf.custom_gradient
def _add_bias_16(x: keras.KerasTensor, bias: keras.KerasTensor) -> keras.KerasTensor:
    def gradient(upstream: keras.KerasTensor) -> tuple:
        return upstream, tf.cast(tf.reduce_sum(tf.cast(upstream, tf.float32), list(range(len(x.shape) - 1))), bias.dtype)

    return tf.nn.bias_add(x, bias), gradient
