"""Replicas: wraps a `tf.distribute` strategy: scope, distributed batches, collectives between workers.

    replicas = open_replicas(global_batch_size=8, replicas=0)     # see strategies.py
    with replicas.scope():
        model = ...
    for batch in replicas.distribute(stream.batches(0, replicas=replicas.count)):
        ...

The same code runs under OneDeviceStrategy, MirroredStrategy and MultiWorkerMirroredStrategy. Worker 0 is the chief: only the chief reads and writes
the run directory; it broadcasts what the other workers need.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf

from flexseg.data.tuning import untuned_devices
from flexseg.distribution.cluster import Cluster

Variable: TypeAlias = keras.Variable | tf.Variable


class WorkerLost(KeyboardInterrupt):
    """Another worker was lost, which ends the run; `exit_code` 75 tells launchers to start it again."""

    exit_code = 75


class Replicas:
    """The replicas of a model.

    Args:
      strategy: a `tf.distribute.Strategy` that mirrors all variables.
      description: the devices and the reason for them, one line for the log.
      cluster: the workers; None for a single process.
      communication: options of the gradient all-reduce.

    Attributes:
      workers: number of workers.
      worker: index of this worker.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        description: str,
        cluster: Cluster | None = None,
        communication: tf.distribute.experimental.CommunicationOptions | None = None,
    ):
        self.strategy, self.description, self.communication = strategy, description, communication
        self.workers, self.worker = (len(cluster.addresses), cluster.index) if cluster else (1, 0)

    @property
    def count(self) -> int:
        """Number of replicas in sync, over all workers."""
        return self.strategy.num_replicas_in_sync

    @property
    def local_count(self) -> int:
        """Number of replicas of this worker."""
        return self.count // self.workers

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the chief, which writes the run directory."""
        return self.worker == 0

    @property
    def on_gpu(self) -> bool:
        """Whether the replicas are GPUs."""
        return any("GPU" in device for device in self.strategy.extended.worker_devices)

    def scope(self) -> contextlib.AbstractContextManager:
        """The scope of the strategy: variables made inside are mirrored on all replicas."""
        return self.strategy.scope()

    def distribute(self, dataset: tf.data.Dataset) -> Iterator[dict]:
        """Iterates over per-replica batches; `dataset` yields those of this worker, replica by replica (`Stream.batches`)."""
        options = tf.distribute.InputOptions(experimental_fetch_to_device=self.on_gpu)
        with untuned_devices():
            return iter(self.strategy.distribute_datasets_from_function(lambda _: dataset, options))

    def shard(self, batch: dict) -> dict:
        """Shards a global batch of host arrays evenly over replicas."""
        size = len(next(iter(batch.values()))) // self.count

        def per_replica(value: np.ndarray) -> tf.Tensor:
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(value[context.replica_id_in_sync_group * size : (context.replica_id_in_sync_group + 1) * size])
            )

        return {name: per_replica(value) for name, value in batch.items()}

    def read(self, variable: Variable) -> np.ndarray:
        """The value of a mirrored variable as a NumPy array."""
        return self.local(variable.value if isinstance(variable, keras.Variable) else variable)[0].numpy()

    def write(self, variable: Variable, value: np.ndarray) -> None:
        """Assigns a variable on all replicas of this worker."""
        (variable.value if isinstance(variable, keras.Variable) else variable).assign(value)

    def local(self, value: object) -> list:
        """The per-replica values of this worker (`experimental_local_results`)."""
        return list(self.strategy.experimental_local_results(value))

    def sum_over_workers(self, array: np.ndarray) -> np.ndarray:
        """Sums an int64 or int32 array over workers. All workers must call it, with the same shape."""
        if self.workers == 1:
            return array
        own, none = tf.constant(array), tf.zeros_like(array)
        first = self.worker * self.local_count  # only the first replica of each worker contributes

        def value(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
            return own if context.replica_id_in_sync_group == first else none

        return self.local(self._sum(self.strategy.experimental_distribute_values_from_function(value)))[0].numpy()

    @functools.cached_property
    def _sum(self) -> Callable[[tf.Tensor], tf.Tensor]:
        def replica(value: tf.Tensor) -> tf.Tensor:  # identity: the strategy reads the tensor's device, an argument has none
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))

        return tf.function(lambda value: self.strategy.run(replica, args=(value,)), autograph=False, reduce_retracing=True)

    def gather(self, content: bytes) -> list[bytes]:
        """Gathers `content` of all workers, in their order. All workers must call it."""
        if self.workers == 1:
            return [content]
        sizes = self.sum_over_workers(np.where(np.arange(self.workers) == self.worker, len(content), 0))
        table = np.zeros([self.workers, int(sizes.max())], np.int32)
        table[self.worker, : len(content)] = np.frombuffer(content, np.uint8)
        return [row[:size].astype(np.uint8).tobytes() for row, size in zip(self.sum_over_workers(table), sizes, strict=True)]

    def from_chief(self, content: bytes) -> bytes:
        """Broadcasts `content` of the chief. All workers must call it."""
        return self.gather(content if self.is_chief else b"")[0]

    def array_from_chief(self, array: np.ndarray) -> np.ndarray:
        """Broadcasts an array of the chief, bit for bit. All workers must call it, with the same shape and dtype."""
        if self.workers == 1:
            return array
        words = np.frombuffer(array.tobytes() + bytes(-array.nbytes % 4), np.int32)  # sums of floats would turn -0 into 0
        received = self.sum_over_workers(words if self.is_chief else np.zeros_like(words)).tobytes()[: array.nbytes]
        return np.frombuffer(received, array.dtype).reshape(array.shape)

    def take_from_chief(self, variables: Iterable[Variable]) -> None:
        """Broadcasts the chief's values of variables. All workers must call it."""
        if self.workers > 1:
            for variable in variables:
                self.write(variable, self.array_from_chief(self.read(variable)))

    @contextlib.contextmanager
    def naming_lost_workers(self) -> Iterator[None]:
        """Turns TensorFlow's errors about a lost worker into WorkerLost."""
        try:
            yield
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError, tf.errors.CancelledError) as error:
            if self.workers == 1:
                raise
            line_of_task = next((line for line in str(error).splitlines() if "task:" in line), "").strip()
            raise WorkerLost(f"another worker was lost; the same command resumes from the last checkpoint ({line_of_task[:200]})") from error
