"""Forward and backward as pure functions of (weights, state, batch): what XLA compiles and every replica runs.

    forward_backward = make_forward_backward(model, measures, replicas=2)
    values, gradients, state = forward_backward(weights, state, batch, scale, total_weight)
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from flexseg.distribution.step import sum_over_replicas
from flexseg.objectives.measures import Measures


def make_forward_backward(model: keras.Model, measures: Measures, *, replicas: int) -> Callable:
    """The pure training function of `model` for `TrainStep`.

    Returns:
      (weights, state, batch, scale, total_weight) -> (values, gradients, state): `values` float [n] of `Measures`, gradients of
      scale · (this replica's share of the loss) in the weights' dtype, `state` the non-trainable variables' new values.
    """
    summed = sum_over_replicas if replicas > 1 else tf.identity
    dtype = model.inputs[0].dtype

    def forward_backward(weights, state, batch, scale, total_weight):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            logits, state = model.stateless_call(weights, state, tf.cast(batch["image"], dtype), training=True)
            share, values = measures(logits, batch["mask"], batch["weight"], total_weight=total_weight, replicas=replicas, sum_over_replicas=summed)
            scaled = share * tf.cast(scale, share.dtype)
        return tf.stop_gradient(values), tape.gradient(scaled, weights), state

    return forward_backward
