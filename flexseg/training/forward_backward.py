"""Forward and backward as pure functions of (weights, state, batch): what XLA compiles and every replica runs.

Usage:
    forward_backward = make_forward_backward(model, step_metrics, replicas=2, accumulation_steps=4)
    values, gradients, state = forward_backward(weights, state, batch, scale, total_weight)
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from flexseg.distribution.step import seed_generator_indices, sum_over_replicas
from flexseg.objectives.step_metrics import StepMetrics


def make_forward_backward(model: keras.Model, step_metrics: StepMetrics, *, replicas: int, accumulation_steps: int = 1) -> Callable:
    """The pure training function of `model` for `TrainStep`.

    Args:
      model: built.
      step_metrics: loss and metrics.
      replicas: how many hold a share of the global batch.
      accumulation_steps: gradient accumulation: the number of micro-batches of each replica's examples, which it must divide.

    Returns:
      (weights, state, batch, scale, total_weight) -> (values, gradients, state): `values` float [n] of `StepMetrics`, gradients of
      scale · (this replica's share of the loss) in the weights' dtype, `state` the non-trainable variables' new values.
    """
    summed = sum_over_replicas if replicas > 1 else tf.identity
    dtype = model.inputs[0].dtype

    def forward_backward(weights, state, batch, scale, total_weight):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            outputs, state = model.stateless_call(weights, state, tf.cast(batch["image"], dtype), training=True)
            share, values = step_metrics(
                outputs, batch["mask"], batch["weight"], total_weight=total_weight, replicas=replicas, sum_over_replicas=summed
            )
            scaled = share * tf.cast(scale, share.dtype)
        return tf.stop_gradient(values), tape.gradient(scaled, weights), state

    if accumulation_steps == 1:
        return forward_backward
    return _accumulated(forward_backward, accumulation_steps, seeds=seed_generator_indices(model), num_values=step_metrics.size)


def _accumulated(forward_backward: Callable, count: int, *, seeds: set[int], num_values: int) -> Callable:
    """The same function with gradient accumulation over `count` micro-batches, one after the other.

    Every part is a sum over examples (see `StepMetrics`), so the sums over micro-batches are those of all examples of the replica. Moving statistics
    pass from one micro-batch to the next. Dropout seeds are folded once more, with the index of the micro-batch.
    """

    def accumulated(weights, state, batch, scale, total_weight):
        parts = {name: tf.reshape(value, [count, -1, *value.shape[1:]]) for name, value in batch.items()}
        fold = tf.random.experimental.stateless_fold_in

        def micro_batch(index, sums, gradients, state):
            folded = [fold(value, index) if i in seeds else value for i, value in enumerate(state)]
            part = {name: value[index] for name, value in parts.items()}
            values, more, after = forward_backward(weights, folded, part, scale, total_weight)
            state = [state[i] if i in seeds else value for i, value in enumerate(after)]
            return index + 1, sums + values, [old + new for old, new in zip(gradients, more, strict=True)], state

        zeros = (tf.constant(0), tf.zeros([num_values], weights[0].dtype), [tf.zeros_like(w) for w in weights], list(state))
        # one at a time: side by side they would take as much memory as the whole batch
        _, *sums = tf.while_loop(lambda index, *_: index < count, micro_batch, zeros, parallel_iterations=1, maximum_iterations=count)
        return tuple(sums)

    return accumulated
