"""Forward and backward pass of one replica as a pure function of (weights, state, batch), with gradient accumulation. XLA can compile it.

    forward_backward = make_forward_backward(model, step_metrics, preprocessing=preprocessing, replicas=2, accumulation_steps=4)
    values, gradients, state = forward_backward(weights, state, batch, scale, total_weight)

It has no all-reduce, except for losses of the global batch and synchronized batch normalization.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from flexseg.data.preprocessing import Preprocessing
from flexseg.distribution.step import seed_generator_indices, sum_over_replicas
from flexseg.objectives.step_metrics import StepMetrics

Tensors = list[tf.Tensor]


def make_forward_backward(
    model: keras.Model, step_metrics: StepMetrics, *, preprocessing: Preprocessing, replicas: int, accumulation_steps: int = 1
) -> Callable:
    """Makes the forward and backward pass of `TrainStep`.

    Args:
      model: a built model.
      step_metrics: loss and metrics.
      preprocessing: its part on the device comes first.
      replicas: number of replicas in the global batch.
      accumulation_steps: micro-batches per replica (gradient accumulation); must divide the examples of a replica.

    Returns:
      (weights, state, batch, scale, total_weight) -> (values, gradients, state). `values`: float [n] of `StepMetrics`. `gradients`: of scale · (loss
      of this replica, which adds up to the global loss), in the dtype of the weights. `state`: new values of the non-trainable variables.
    """
    summed = sum_over_replicas if replicas > 1 else tf.identity
    dtype = model.inputs[0].dtype

    def forward_backward(weights: Tensors, state: Tensors, batch: dict, scale: tf.Tensor, total_weight: tf.Tensor) -> tuple:
        batch = preprocessing.on_device(batch, dtype=dtype)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            outputs, state = model.stateless_call(weights, state, batch["image"], training=True)
            loss, values = step_metrics(
                outputs, batch["mask"], batch["weight"], total_weight=total_weight, replicas=replicas, sum_over_replicas=summed
            )
            assert loss is not None  # there is a total_weight
            scaled = loss * tf.cast(scale, loss.dtype)
        return tf.stop_gradient(values), tape.gradient(scaled, weights), state

    if accumulation_steps == 1:
        return forward_backward
    return _accumulated(forward_backward, accumulation_steps, seeds=seed_generator_indices(model), num_values=step_metrics.size)


def _accumulated(forward_backward: Callable, count: int, *, seeds: set[int], num_values: int) -> Callable:
    """The same function with gradient accumulation over `count` micro-batches in sequence.

    Values and gradients are sums over examples (see `StepMetrics`), so their sums over micro-batches are those of the replica. Moving statistics
    carry over from one micro-batch to the next. Dropout seeds are folded with the index of the micro-batch.
    """

    def accumulated(weights: Tensors, state: Tensors, batch: dict, scale: tf.Tensor, total_weight: tf.Tensor) -> tuple:
        parts = {name: tf.reshape(value, [count, -1, *value.shape[1:]]) for name, value in batch.items()}
        fold = tf.random.experimental.stateless_fold_in

        def micro_batch(index: tf.Tensor, sums: tf.Tensor, gradients: Tensors, state: Tensors) -> tuple:
            folded = [fold(value, index) if i in seeds else value for i, value in enumerate(state)]
            part = {name: value[index] for name, value in parts.items()}
            values, more, after = forward_backward(weights, folded, part, scale, total_weight)
            state = [state[i] if i in seeds else value for i, value in enumerate(after)]
            return index + 1, sums + values, [old + new for old, new in zip(gradients, more, strict=True)], state

        zeros = (tf.constant(0), tf.zeros([num_values], weights[0].dtype), [tf.zeros_like(w) for w in weights], list(state))
        # parallel iterations would need the memory of the whole batch
        _, *sums = tf.while_loop(lambda index, *_: index < count, micro_batch, zeros, parallel_iterations=1, maximum_iterations=count)
        return tuple(sums)

    return accumulated
