"""TrainStep: a synchronous data-parallel training step: forward and backward pass, one all-reduce, one finite check, one update.

    step = TrainStep(replicas, model, optimizer, loss_scale, forward_backward, clip=clip, seed=7, xla=False)
    outcome = step(batch, global_step=0, learning_rate=1e-3, total_weight=8.0)

`forward_backward` is a pure function of (weights, state, batch). So XLA can compile it on any number of replicas, and a skipped step changes no
variable: moving statistics are returned as values, dropout seeds are folded from (seed, layer, global step, replica). One all-reduce carries
gradients, moving statistics and step metrics. The finite check uses the reduced values, so that all replicas take the same branch (keras#20763).
`tf.cond` is outside of `strategy.run`, because a collective must not be in a branch.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from flexseg.distribution.ema import ExponentialMovingAverage
from flexseg.distribution.loss_scale import LossScale
from flexseg.distribution.replicas import Replicas


class Outcome(NamedTuple):
    """The outcome of a step.

    Attributes:
      values: float [n], the step metrics: sums over the global batch (see `StepMetrics`).
      applied: bool scalar; false for a skipped step.
      stop_requests: float [m], summed over all replicas.
    """

    values: tf.Tensor
    applied: tf.Tensor
    stop_requests: tf.Tensor


def sum_over_replicas(values: tf.Tensor) -> tf.Tensor:
    """All-reduces a tensor by sum, with gradients, for losses of the global batch."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def seed_generator_indices(model: keras.Model) -> set[int]:
    """Indices of the states of SeedGenerators (dropout) in `model.non_trainable_variables`, nested models included."""
    return {i for i, v in enumerate(model.non_trainable_variables) if v.path.endswith("seed_generator_state")}


class TrainStep:
    """The compiled training step. All variables of the model have one dtype, as under any Keras dtype policy.

    Args:
      replicas: the devices.
      model: a built Keras model, made in the scope of the strategy.
      optimizer: FusedAdam or FusedSGD (`training/fused_optimizers.py`), built on the trainable variables of the model.
      loss_scale: made in the scope of the strategy.
      forward_backward: pure function (weights, state, batch, scale, total_weight) -> (values float [n], gradients, state), see
        `make_forward_backward`. The sum of the gradients over replicas is that of the scaled loss of the global batch; values[0] adds up to the loss.
      clip: pure function of the list of unscaled gradients after the all-reduce.
      weight_decay: decoupled weight decay, times the learning rate per step (Loshchilov and Hutter 2019); 0 for none.
      ema: the EMA of the weights, or None.
      encoder_variables: indices of the trainable variables with the encoder learning rate.
      encoder_learning_rate: pure function (learning rate, global step) -> encoder learning rate.
      seed: seed of dropout.
      xla: compile `forward_backward` with XLA.
    """

    def __init__(
        self,
        replicas: Replicas,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss_scale: LossScale,
        forward_backward: Callable,
        *,
        clip: Callable,
        weight_decay: float = 0.0,
        ema: ExponentialMovingAverage | None = None,
        encoder_variables: Collection[int] = (),
        encoder_learning_rate: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
        seed: int,
        xla: bool,
    ):
        self._replicas, self._optimizer, self._loss_scale = replicas, optimizer, loss_scale
        self._weights, self._state = model.trainable_variables, model.non_trainable_variables
        self._seeds = seed_generator_indices(model)
        self._moving = [i for i in range(len(self._state)) if i not in self._seeds]
        self._forward_backward = tf.function(forward_backward, jit_compile=True, autograph=False) if xla else forward_backward
        self._clip, self._weight_decay, self._ema, self._seed = clip, weight_decay, ema, seed
        self._encoder_variables, self._encoder_learning_rate = frozenset(encoder_variables), encoder_learning_rate
        self._compiled, self._compiled_many = tf.function(self._step, autograph=False), tf.function(self._steps, autograph=False)

    def __call__(
        self, batch: dict, *, global_step: int, learning_rate: float, total_weight: float, stop_requests: Sequence[float] = (0.0,)
    ) -> Outcome:
        """Runs one step.

        Args:
          batch: per-replica tensors, from `Replicas.distribute` or `Replicas.shard`.
          global_step: from 0; part of the dropout seeds.
          learning_rate: the learning rate of the step.
          total_weight: sum of the example weights over the global batch, known to the host.
          stop_requests: stop requests of this process [m]; the all-reduce sums them over replicas.
        """
        return self._compiled(batch, *self._scalars(global_step, learning_rate, total_weight, stop_requests))

    def run_steps(
        self,
        batches: Iterator[dict],
        *,
        first: int,
        count: int,
        learning_rates: Sequence[float],
        total_weight: float,
        stop_requests: Sequence[float] = (0.0,),
    ) -> Outcome:
        """Runs `count` steps from global step `first` on in one call (steps_per_execution).

        Args:
          batches: an iterator from `Replicas.distribute`.
          first: global step of the first step.
          count: number of steps.
          learning_rates: learning rate of each step; `count` or more.
          total_weight, stop_requests: as in `__call__`, for every step.

        Returns:
          An Outcome with one row per step.
        """
        return self._compiled_many(batches, tf.constant(count), *self._scalars(first, learning_rates, total_weight, stop_requests))

    def _scalars(self, step: int, rate: float | Sequence[float], total_weight: float, stop_requests: Sequence[float]) -> tuple[tf.Tensor, ...]:
        dtype = self._weights[0].dtype
        return tf.constant(step, tf.int64), tf.constant(rate, dtype), tf.constant(total_weight, dtype), tf.constant(stop_requests, dtype)

    def _dropout_seed(self, index: int, step: tf.Tensor, replica: tf.Tensor) -> tf.Tensor:
        fold = tf.random.experimental.stateless_fold_in
        return fold(fold(tf.constant([self._seed, index], tf.int64), step), replica)

    def _replica(
        self, batch: dict, step: tf.Tensor, total_weight: tf.Tensor, stop_requests: tf.Tensor
    ) -> tuple[list[tf.Tensor], list[tf.Tensor], tf.Tensor, tf.Tensor]:
        context = tf.distribute.get_replica_context()
        replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
        scale = tf.identity(self._loss_scale.scale)
        state = [self._dropout_seed(i, step, replica) if i in self._seeds else tf.convert_to_tensor(v.value) for i, v in enumerate(self._state)]
        weights = [tf.convert_to_tensor(v.value) for v in self._weights]
        values, gradients, state = self._forward_backward(weights, state, batch, scale, total_weight)
        moving = [state[i] / self._replicas.count for i in self._moving]
        values = tf.concat([values, tf.cast(stop_requests, values.dtype)], axis=0)
        reduced = context.all_reduce(tf.distribute.ReduceOp.SUM, [*gradients, *moving, values], self._replicas.communication)
        gradients = reduced[: len(weights)]
        if self._loss_scale.dynamic:  # dividing a hundred tensors by 1 would cost a small step a percent
            gradients = [g / tf.cast(scale, g.dtype) for g in gradients]
        moving, values = reduced[len(weights) : -1], reduced[-1]
        # values[0] is the loss: a non-finite loss skips the step even if its gradients are finite. NaN and infinity survive every sum, so one check
        # of the sum of all tensors is enough; a check of each tensor would cost a small step a percent.
        finite = tf.math.is_finite(tf.add_n([tf.reduce_sum(t) for t in [*gradients, *moving, values[:1]]]))
        return self._clip(gradients), moving, values, finite

    def _step(self, batch: dict, step: tf.Tensor, rate: tf.Tensor, total_weight: tf.Tensor, stop_requests: tf.Tensor) -> Outcome:
        gradients, moving, values, finite = self._replicas.strategy.run(self._replica, args=(batch, step, total_weight, stop_requests))
        update = self._replicas.strategy.extended.update

        scalars = self._optimizer.scalars(rate)
        encoder_rate = self._encoder_learning_rate if self._encoder_variables else None
        encoder_scalars = self._optimizer.scalars(encoder_rate(rate, step)) if encoder_rate else scalars
        decay = self._ema and self._ema.decay(tf.cast(tf.convert_to_tensor(self._optimizer.iterations.value) + 1, rate.dtype))

        def update_weight(variable: tf.Variable, gradient: tf.Tensor, index: int) -> None:
            own = encoder_scalars if index in self._encoder_variables else scalars
            if self._weight_decay:
                variable.assign_sub(variable * (self._weight_decay * own[0]))
            self._optimizer.update_weight(gradient, variable, own)
            if self._ema:
                self._ema.update(index, variable, decay)

        def apply() -> bool:
            for index, (variable, gradient) in enumerate(zip(self._weights, gradients, strict=True)):
                update(variable.value, update_weight, args=(gradient, index), group=False)
            for index, value in zip(self._moving, moving, strict=True):
                update(self._state[index].value, lambda v, new: v.assign(new), args=(value,), group=False)
            self._optimizer.iterations.assign_add(1)
            self._loss_scale.applied()
            return True

        def skip() -> bool:
            self._loss_scale.skipped()
            return False

        applied = tf.cond(self._replicas.local(finite)[0], apply, skip)
        total, requests = self._replicas.local(values)[0], stop_requests.shape[0]
        return Outcome(total[:-requests], applied, total[-requests:])

    def _steps(
        self, batches: Iterator[dict], count: tf.Tensor, first: tf.Tensor, rates: tf.Tensor, total_weight: tf.Tensor, stop_requests: tf.Tensor
    ) -> Outcome:
        rows = [tf.TensorArray(dtype, count) for dtype in (rates.dtype, tf.bool, rates.dtype)]

        def one(index: tf.Tensor, *rows: tf.TensorArray) -> tuple:
            outcome = self._step(next(batches), first + tf.cast(index, tf.int64), rates[index], total_weight, stop_requests)
            return index + 1, *(row.write(index, part) for row, part in zip(rows, outcome, strict=True))

        _, *rows = tf.while_loop(lambda index, *_: index < count, one, [tf.constant(0), *rows], parallel_iterations=1)
        return Outcome(*(row.stack() for row in rows))


class EvaluationStep:
    """The compiled forward pass over all replicas.

    Args:
      replicas: the devices.
      model: gives weights and state.
      forward: pure function (weights, state, batch) -> (values float [n] summed over the replica's examples, output or None).
      xla: compile `forward` with XLA.
    """

    def __init__(self, replicas: Replicas, model: keras.Model, forward: Callable, *, xla: bool):
        self._replicas, self._model = replicas, model
        self._forward = tf.function(forward, jit_compile=True, autograph=False) if xla else forward
        self._compiled = tf.function(self._step, autograph=False)

    def __call__(self, batch: dict) -> tuple[tf.Tensor, list]:
        """(values float [n] summed over the global batch, outputs of the replicas of this process in order)."""
        values, outputs = self._compiled(batch)
        return self._replicas.local(values)[0], self._replicas.local(outputs)

    def _replica(self, batch: dict) -> tuple[tf.Tensor, Any]:
        weights = [tf.convert_to_tensor(v.value) for v in self._model.trainable_variables]
        state = [tf.convert_to_tensor(v.value) for v in self._model.non_trainable_variables]
        values, output = self._forward(weights, state, batch)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values), output

    def _step(self, batch: dict) -> tuple[tf.Tensor, Any]:
        return self._replicas.strategy.run(self._replica, args=(batch,))
