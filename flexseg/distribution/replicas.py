"""The devices of a run, and the one door to `tf.distribute`.

    replicas = open_replicas(global_batch_size=8, replicas=0)     # see strategies.py
    with replicas.scope():
        model = ...
    for batch in replicas.distribute(stream.batches(0, replicas=replicas.count)):
        ...

One device runs under OneDeviceStrategy, several of one host under MirroredStrategy, several processes under MultiWorkerMirroredStrategy; the same
step runs under each. Worker 0 is the chief: it alone reads and writes the run directory, and sends the others what they need.
"""

import contextlib
import functools
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from flexseg.data.tuning import untuned_devices
from flexseg.distribution.cluster import Cluster


class WorkerLost(KeyboardInterrupt):
    """Another worker is gone, and with it the run; `exit_code` says to launchers: run me again."""

    exit_code = 75


class Replicas:
    """What the rest of flexseg knows of a strategy.

    Args:
      strategy: a `tf.distribute.Strategy` in which every replica holds all variables.
      description: one line for the log: which devices, and why these.
      cluster: the workers, where there are several.
      communication: how sums cross the network.
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
        """Replicas in sync, over all workers."""
        return self.strategy.num_replicas_in_sync

    @property
    def local_count(self) -> int:
        """Replicas of this process."""
        return self.count // self.workers

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run directory."""
        return self.worker == 0

    @property
    def on_gpu(self) -> bool:
        """Whether the replicas are GPUs."""
        return any("GPU" in device for device in self.strategy.extended.worker_devices)

    def scope(self):
        """Variables made inside live on every replica."""
        return self.strategy.scope()

    def distribute(self, dataset: tf.data.Dataset):
        """An iterator of per-replica batches from a dataset that yields them replica by replica, those of this worker (`Stream.batches`)."""
        options = tf.distribute.InputOptions(experimental_fetch_to_device=self.on_gpu)
        with untuned_devices():
            return iter(self.strategy.distribute_datasets_from_function(lambda _: dataset, options))

    def shard(self, batch: dict) -> dict:
        """A global batch of host arrays as per-replica tensors, split evenly."""
        size = len(next(iter(batch.values()))) // self.count

        def share(value):
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(value[context.replica_id_in_sync_group * size : (context.replica_id_in_sync_group + 1) * size])
            )

        return {name: share(value) for name, value in batch.items()}

    def read(self, variable) -> np.ndarray:
        """Host copy of a Keras or TensorFlow variable, which is the same on every replica."""
        return self.local(variable.value if isinstance(variable, keras.Variable) else variable)[0].numpy()

    def write(self, variable, value: np.ndarray) -> None:
        """Assigns a Keras or TensorFlow variable on every replica."""
        (variable.value if isinstance(variable, keras.Variable) else variable).assign(value)

    def local(self, value) -> list:
        """The value of each replica of this process."""
        return list(self.strategy.experimental_local_results(value))

    def sum_over_workers(self, array: np.ndarray) -> np.ndarray:
        """The sum of one int64 or int32 array of each worker; all must call it, with arrays of one shape."""
        if self.workers == 1:
            return array
        own, none = tf.constant(array), tf.zeros_like(array)
        first = self.worker * self.local_count  # one replica of each worker contributes

        def value(context):
            return own if context.replica_id_in_sync_group == first else none

        return self.local(self._sum(self.strategy.experimental_distribute_values_from_function(value)))[0].numpy()

    @functools.cached_property
    def _sum(self):
        def replica(value):  # identity: the strategy looks for the device of what it reduces, and an argument has none
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))

        return tf.function(lambda value: self.strategy.run(replica, args=(value,)), autograph=False, reduce_retracing=True)

    def gather(self, content: bytes) -> list[bytes]:
        """`content` of every worker, in order; all must call it."""
        if self.workers == 1:
            return [content]
        sizes = self.sum_over_workers(np.where(np.arange(self.workers) == self.worker, len(content), 0))
        table = np.zeros([self.workers, int(sizes.max())], np.int32)
        table[self.worker, : len(content)] = np.frombuffer(content, np.uint8)
        return [row[:size].astype(np.uint8).tobytes() for row, size in zip(self.sum_over_workers(table), sizes, strict=True)]

    def from_chief(self, content: bytes) -> bytes:
        """`content` of the chief, on every worker; all must call it."""
        return self.gather(content if self.is_chief else b"")[0]

    def array_from_chief(self, array: np.ndarray) -> np.ndarray:
        """An array of the chief, to the bit, on every worker; all must call it, with one shape and dtype."""
        if self.workers == 1:
            return array
        words = np.frombuffer(array.tobytes() + bytes(-array.nbytes % 4), np.int32)  # sums of floats would turn -0 into 0
        told = self.sum_over_workers(words if self.is_chief else np.zeros_like(words)).tobytes()[: array.nbytes]
        return np.frombuffer(told, array.dtype).reshape(array.shape)

    def take_from_chief(self, variables) -> None:
        """Gives variables the chief's values on every worker; all must call it."""
        if self.workers > 1:
            for variable in variables:
                self.write(variable, self.array_from_chief(self.read(variable)))

    @contextlib.contextmanager
    def naming_lost_workers(self) -> Iterator[None]:
        """Turns what TensorFlow raises when another worker is gone into a WorkerLost."""
        try:
            yield
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError, tf.errors.CancelledError) as error:
            if self.workers == 1:
                raise
            told = next((line for line in str(error).splitlines() if "task:" in line), "").strip()
            raise WorkerLost(f"another worker was lost; the same command goes on from the last checkpoint ({told[:200]})") from error
