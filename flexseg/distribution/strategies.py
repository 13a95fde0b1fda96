"""Chooses devices and `tf.distribute` strategy: OneDeviceStrategy, MirroredStrategy or MultiWorkerMirroredStrategy.

    replicas = open_replicas(global_batch_size=8, replicas=0)     # 0: as many GPUs as divide the batch, else one CPU
    replicas = open_replicas(global_batch_size=64, cluster=find_cluster(...), communication=Communication(all_reduce="nccl"))

Parameter servers, TPUs and model parallelism are not supported.
"""

import functools
import os

import tensorflow as tf

from flexseg.distribution.cluster import Cluster
from flexseg.distribution.communication import Communication
from flexseg.distribution.replicas import Replicas
from flexseg.errors import UserError


@functools.cache
def _mirrored(devices: tuple[str, ...], hierarchical: bool) -> tf.distribute.Strategy:
    """One MirroredStrategy per set of devices, so that a notebook can train, evaluate and train again.

    In TF 2.21 all MirroredStrategies number their collectives from the same base, so that a second one fails ("Shape mismatch in the collective
    instance 100"). TensorFlow's own tests move the base, too.
    """
    tf.distribute.MirroredStrategy._collective_key_base += 1000
    return tf.distribute.MirroredStrategy(devices, tf.distribute.HierarchicalCopyAllReduce() if hierarchical else None)


@functools.cache
def _multi_worker(cluster: Cluster) -> tf.distribute.Strategy:
    """Connects the workers. TensorFlow reads TF_CONFIG and requires this call before any other op."""
    os.environ["TF_CONFIG"] = cluster.tf_config
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.UnknownError as error:
        if "gRPC server" not in str(error):
            raise
        worker, own = f"worker {cluster.index}", cluster.addresses[cluster.index]
        raise UserError(worker, expected=f"to listen on {own}", found="a port that is taken", cure="name another port for it") from error


def open_replicas(
    *,
    global_batch_size: int | None,
    replicas: int = 0,
    logical_cpus: int = 0,
    logical_gpus: int = 0,
    cluster: Cluster | None = None,
    communication: Communication | None = None,
) -> Replicas:
    """Chooses the devices and makes the strategy.

    Args:
      global_batch_size: examples per step over all replicas; None if the batch size is given per replica.
      replicas: number of devices; 0 for the largest number of visible GPUs that divides the global batch, else one CPU.
      logical_cpus: number of logical CPU devices to make and use (for tests; must be the first use of TensorFlow's devices).
      logical_gpus: number of logical GPUs to use, which the caller made on one card (benchmarks/gpu_check.py).
      cluster: the workers; each uses all GPUs that it sees, else its CPU.
      communication: all-reduce options; default: TensorFlow's.

    Raises:
      UserError: too few visible GPUs, or the number of replicas does not divide the global batch.
    """
    communication = communication or Communication()
    if cluster is not None:
        return _open_workers(cluster, communication, global_batch_size=global_batch_size, replicas=replicas, logical_cpus=logical_cpus)
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
    communication.check(devices=count, on_gpu="GPU" in devices[0], workers=1)
    strategy = tf.distribute.OneDeviceStrategy(devices[0]) if count == 1 else _mirrored(tuple(devices), communication.hierarchical)
    return Replicas(strategy, f"{count} × {devices[0].split(':')[0]} ({why})", communication=communication.options())


def _open_workers(cluster: Cluster, communication: Communication, *, global_batch_size: int | None, replicas: int, logical_cpus: int) -> Replicas:
    workers = len(cluster.addresses)
    if replicas or logical_cpus:
        flag = "--replicas" if replicas else "--logical_cpus"
        raise UserError(flag, expected=f"none: every one of the {workers} workers uses the GPUs that it sees", found=str(replicas or logical_cpus))
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    communication.check(devices=workers, on_gpu=bool(tf.config.list_physical_devices("GPU")), workers=workers)
    strategy = _multi_worker(cluster)
    _refuse_uneven(global_batch_size, strategy.num_replicas_in_sync)
    made = Replicas(strategy, "", cluster, communication.options())
    made.description = (
        f"{workers} workers × {made.local_count} × {'GPU' if made.on_gpu else 'CPU'} ({cluster.source}: {', '.join(cluster.addresses)})"
    )
    return made


def _refuse_uneven(global_batch_size: int | None, count: int) -> None:
    if global_batch_size and global_batch_size % count:
        raise UserError(
            "train.global_batch_size",
            expected=f"a multiple of the {count} replicas",
            found=str(global_batch_size),
            cure=f'--gin_param="train.global_batch_size={-(-global_batch_size // count) * count}"',
        )
