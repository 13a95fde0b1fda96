"""GradientCheckpointing: a block of a network computes its activations again in the backward pass instead of keeping them.

    x = with_gradient_checkpointing(lambda x: conv_block(x, style, name="encoder_0", filters=16), x, name="encoder_0")

The layers of the block keep their names and weights: a checkpoint is the same with and without gradient checkpointing. What is kept of a block is
its input (Chen et al. 2016, arXiv 1604.06174); the backward pass costs one more forward pass.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


class GradientCheckpointing(keras.layers.Layer):
    """A functional model as one layer that keeps only its input for the backward pass.

    `tf.recompute_grad` runs a stateless call that takes the block's weights as arguments: weights that it captures would get no gradient, and
    `keras.RematScope` gives none at all there. Moving statistics and dropout seeds are captured, so that the second pass sees what the first
    one saw.
    """

    def __init__(self, block: keras.Model, *, name: str):
        super().__init__(name=name)
        self.block = block

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """That of the block."""
        return self.block.compute_output_shape(input_shape)

    def call(self, x: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:
        """The block's output, [B, H, W, any]."""
        if not training:
            return self.block(x, training=False)
        variables = self.block.non_trainable_variables
        state = [tf.convert_to_tensor(v.value) for v in variables]

        def run(x: keras.KerasTensor, weights: list) -> tuple:
            output, after = self.block.stateless_call(weights, state, x, training=True)
            return (output, *after)

        output, *after = tf.recompute_grad(run)(x, [tf.convert_to_tensor(v.value) for v in self.block.trainable_variables])
        for variable, value in zip(variables, after, strict=True):
            variable.assign(value)
        return output


def with_gradient_checkpointing(build: Callable, x: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
    """`build(x)`, a function of one Keras tensor, as one GradientCheckpointing layer of that name."""
    inputs = keras.Input(x.shape[1:], batch_size=x.shape[0], dtype=x.dtype)
    return GradientCheckpointing(keras.Model(inputs, build(inputs), name=name), name=name)(x)
