"""The devices of a run, and the one door to `tf.distribute`.

    replicas = open_replicas(global_batch_size=8, replicas=0)     # 0: as many GPUs as divide the batch, else one CPU
    with replicas.scope():
        model = ...
    for batch in replicas.distribute(stream.batches(0, replicas=replicas.count)):
        ...

One device runs under OneDeviceStrategy, several of one host under MirroredStrategy, several processes under MultiWorkerMirroredStrategy; the same
step runs under each. Worker 0 is the chief: it alone reads and writes the run directory, and sends the others what they need.
"""

import contextlib
import functools
import os
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from flexseg.distribution.cluster import Cluster
from flexseg.errors import UserError


class WorkerLost(KeyboardInterrupt):
    """Another worker is gone, and with it the run; `exit_code` says to launchers: run me again."""

    exit_code = 75


class Replicas:
    """What the rest of flexseg knows of a strategy.

    Args:
      strategy: a `tf.distribute.Strategy` in which every replica holds all variables.
      description: one line for the log: which devices, and why these.
      cluster: the workers, where there are several.
    """

    def __init__(self, strategy: tf.distribute.Strategy, description: str, cluster: Cluster | None = None):
        self.strategy, self.description = strategy, description
        self.workers, self.worker = (len(cluster.addresses), cluster.index) if cluster else (1, 0)

    @property
    def count(self) -> int:
        """Replicas in sync, over all workers."""
        return self.strategy.num_replicas_in_sync

    @property
    def here(self) -> int:
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
        return iter(self.strategy.distribute_datasets_from_function(lambda _: dataset, options))

    def place(self, batch: dict) -> dict:
        """Splits a global batch of host arrays evenly over the replicas."""
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
        first = self.worker * self.here  # one replica of each worker contributes

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


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """One strategy for a set of devices in a process, so that a notebook may train, evaluate and train again.

    TF 2.21 numbers the collectives of every MirroredStrategy alike: a second one meets the first one's ("Shape mismatch in the
    collective instance 100"). Its own tests move this base for each strategy.
    """
    tf.distribute.MirroredStrategy._collective_key_base += 1000
    return tf.distribute.MirroredStrategy(devices)


@functools.cache
def _multi_worker(cluster: Cluster) -> tf.distribute.Strategy:
    """Waits until all workers are there. TensorFlow reads TF_CONFIG, and wants this before it runs anything else."""
    os.environ["TF_CONFIG"] = cluster.tf_config
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.UnknownError as error:
        if "gRPC server" not in str(error):
            raise
        place, own = f"worker {cluster.index}", cluster.addresses[cluster.index]
        raise UserError(place, expected=f"to listen on {own}", found="a port that is taken", cure="name another port for it") from error


def open_replicas(
    *, global_batch_size: int | None, replicas: int = 0, logical_cpus: int = 0, logical_gpus: int = 0, cluster: Cluster | None = None
) -> Replicas:
    """Chooses the devices.

    Args:
      global_batch_size: examples a step over all replicas; None when the batch is given per replica and any number divides it.
      replicas: how many devices; 0 takes the largest number of visible GPUs that divides the global batch, else one CPU.
      logical_cpus: make this many logical CPU devices and use them (for tests; must be the first use of TensorFlow's devices).
      logical_gpus: use this many logical GPUs that the caller made on one card (benchmarks/gpu_check.py).
      cluster: the workers; each then uses all GPUs that it sees, or its CPU.

    Raises:
      UserError: when fewer GPUs are visible than asked for, or the batch does not divide.
    """
    if cluster is not None:
        return _open_workers(cluster, global_batch_size=global_batch_size, replicas=replicas, logical_cpus=logical_cpus)
    if logical_cpus:
        if replicas not in (0, 1, logical_cpus):
            raise UserError("--replicas", expected=f"none beside --logical_cpus={logical_cpus}", found=str(replicas))
        cpu = tf.config.list_physical_devices("CPU")[0]
        if len(tf.config.get_logical_device_configuration(cpu) or [None]) < logical_cpus:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * logical_cpus)
        count = logical_cpus
        devices = [f"CPU:{i}" for i in range(count)]
        why = "asked for by --logical_cpus"
    elif logical_gpus:
        count, devices, why = logical_gpus, [f"GPU:{i}" for i in range(logical_gpus)], "logical devices of one card"
    else:
        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        if replicas > len(gpus) and not (replicas == 1 and not gpus):
            raise UserError(
                "--replicas",
                expected=f"at most the {len(gpus)} visible GPUs",
                found=str(replicas),
                cure=f"--replicas={len(gpus) or 1}, or --logical_cpus=N to try on a CPU",
            )
        count = replicas or max((n for n in range(1, len(gpus) + 1) if not global_batch_size or global_batch_size % n == 0), default=1)
        devices = [f"GPU:{i}" for i in range(count)] if gpus else ["CPU:0"]
        why = f"{len(gpus)} GPUs visible" + (
            f", {count} divide the global batch of {global_batch_size}" if gpus and not replicas and global_batch_size else ""
        )
    _refuse_uneven(global_batch_size, count)
    strategy = tf.distribute.OneDeviceStrategy(devices[0]) if count == 1 else _mirrored(tuple(devices))
    return Replicas(strategy, f"{count} × {devices[0].split(':')[0]} ({why})")


def _open_workers(cluster: Cluster, *, global_batch_size: int | None, replicas: int, logical_cpus: int) -> Replicas:
    workers = len(cluster.addresses)
    if replicas or logical_cpus:
        flag = "--replicas" if replicas else "--logical_cpus"
        raise UserError(flag, expected=f"none: every one of the {workers} workers uses the GPUs that it sees", found=str(replicas or logical_cpus))
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    strategy = _multi_worker(cluster)
    _refuse_uneven(global_batch_size, strategy.num_replicas_in_sync)
    made = Replicas(strategy, "", cluster)
    made.description = f"{workers} workers × {made.here} × {'GPU' if made.on_gpu else 'CPU'} ({cluster.source}: {', '.join(cluster.addresses)})"
    return made


def _refuse_uneven(global_batch_size: int | None, count: int) -> None:
    if global_batch_size and global_batch_size % count:
        raise UserError(
            "train.global_batch_size",
            expected=f"a multiple of the {count} replicas",
            found=str(global_batch_size),
            cure=f'--gin_param="train.global_batch_size={-(-global_batch_size // count) * count}"',
        )
