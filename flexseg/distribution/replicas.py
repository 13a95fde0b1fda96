"""The devices of a run, and the one door to `tf.distribute`.

    replicas = open_replicas(global_batch_size=8, replicas=0)     # 0: as many GPUs as divide the batch, else one CPU
    with replicas.scope():
        model = ...
    for batch in replicas.distribute(stream.batches(0, replicas=replicas.count)):
        ...

One device runs under OneDeviceStrategy, several under MirroredStrategy; the same step runs under either. Several hosts are not served here.
"""

import functools

import keras
import numpy as np
import tensorflow as tf

from flexseg.errors import UserError


class Replicas:
    """What the rest of flexseg knows of a strategy.

    Args:
      strategy: a `tf.distribute.Strategy` in which every replica holds all variables.
      description: one line for the log: which devices, and why these.
    """

    def __init__(self, strategy: tf.distribute.Strategy, description: str):
        self.strategy, self.description = strategy, description

    @property
    def count(self) -> int:
        """Replicas in sync."""
        return self.strategy.num_replicas_in_sync

    @property
    def on_gpu(self) -> bool:
        """Whether the replicas are GPUs."""
        return any("GPU" in device for device in self.strategy.extended.worker_devices)

    def scope(self):
        """Variables made inside live on every replica."""
        return self.strategy.scope()

    def distribute(self, dataset: tf.data.Dataset):
        """An iterator of per-replica batches from a dataset that yields them replica by replica (`Stream.batches`)."""
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


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """One strategy for a set of devices in a process, so that a notebook may train, evaluate and train again.

    TF 2.21 numbers the collectives of every MirroredStrategy alike: a second one meets the first one's ("Shape mismatch in the
    collective instance 100"). Its own tests move this base for each strategy.
    """
    tf.distribute.MirroredStrategy._collective_key_base += 1000
    return tf.distribute.MirroredStrategy(devices)


def open_replicas(*, global_batch_size: int | None, replicas: int = 0, logical_cpus: int = 0, logical_gpus: int = 0) -> Replicas:
    """Chooses the devices.

    Args:
      global_batch_size: examples a step over all replicas; None when the batch is given per replica and any number divides it.
      replicas: how many devices; 0 takes the largest number of visible GPUs that divides the global batch, else one CPU.
      logical_cpus: make this many logical CPU devices and use them (for tests; must be the first use of TensorFlow's devices).
      logical_gpus: use this many logical GPUs that the caller made on one card (benchmarks/gpu_check.py).

    Raises:
      UserError: when fewer GPUs are visible than asked for, or the batch does not divide.
    """
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
    if global_batch_size and global_batch_size % count:
        raise UserError(
            "train.global_batch_size",
            expected=f"a multiple of the {count} replicas",
            found=str(global_batch_size),
            cure=f'--gin_param="train.global_batch_size={-(-global_batch_size // count) * count}"',
        )
    strategy = tf.distribute.OneDeviceStrategy(devices[0]) if count == 1 else _mirrored(tuple(devices))
    return Replicas(strategy, f"{count} × {devices[0].split(':')[0]} ({why})")
