"""Batches for evaluation: every input of every case once.

    dataset = evaluation_batches(records, sizes=sizes, preprocessing=preprocessing, splitter=splitter, batch_size=8, replicas=2)
    for batch in replicas.distribute(dataset): ...

Where inputs do not fill a batch, it is padded with examples of weight 0.
"""

import heapq
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from flexseg.data.preprocessing import Preprocessing
from flexseg.data.records import Records
from flexseg.data.tuning import parallel, untuned

PADDING = -1


class Splits(Protocol):
    """What `evaluation_batches` needs of a Splitter (flexseg/inference/splitter.py)."""

    def count(self, own_size: tuple[int, int]) -> int: ...  # noqa: D102
    def split(self, image: tf.Tensor, mask: tf.Tensor, part: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]: ...  # noqa: D102


def deal(counts: Iterable[int], *, lanes: int) -> np.ndarray:
    """Deals cases to the lanes of a step; all inputs of a case are in one lane, in order. So one device has the whole case, for any number of them.

    Args:
      counts: number of inputs of each case.
      lanes: inputs of a step. A case goes to the lane with the fewest inputs so far, the first of equals: where every case gives one input, case i
        goes to lane i % lanes.

    Returns:
      int64 [steps, lanes, 2]: the case and the part of each input, both -1 (PADDING) where a lane has no more.
    """
    dealt: list[list[tuple[int, int]]] = [[] for _ in range(lanes)]
    queue = [(0, lane) for lane in range(lanes)]
    for case, count in enumerate(counts):
        _, lane = queue[0]
        dealt[lane] += [(case, part) for part in range(count)]
        heapq.heapreplace(queue, (len(dealt[lane]), lane))
    slots = np.full([max(map(len, dealt)), lanes, 2], PADDING, np.int64)
    for lane, inputs in enumerate(dealt):
        slots[: len(inputs), lane] = np.reshape(inputs, [-1, 2])
    return slots


def evaluation_batches(
    records: Records,
    *,
    sizes: Sequence[tuple[int, int]],
    preprocessing: Preprocessing,
    splitter: Splits,
    batch_size: int,
    replicas: int,
    workers: int = 1,
    worker: int = 0,
) -> tf.data.Dataset:
    """The evaluation batches of this worker, ordered by step and replica: every input of every record once over all workers.

    A step has `batch_size` inputs for any number of replicas. Steps in which some lanes are empty, and replicas that do not divide the batch, are
    padded with weight 0.

    Args:
      records: the records of the split.
      sizes: (height, width) of each record.
      preprocessing: gamma, sharpening and channel order.
      splitter: makes the inputs of a case.
      batch_size: inputs per step over all replicas.
      replicas: number of replicas of this worker.
      workers, worker: number of workers, and index of this worker.
    """
    slots = deal(map(splitter.count, sizes), lanes=batch_size)
    per_replica = -(-batch_size // (replicas * workers))
    slots = np.pad(slots, [(0, 0), (0, per_replica * replicas * workers - batch_size), (0, 0)], constant_values=PADDING)
    mine = slots[:, worker * per_replica * replicas :][:, : per_replica * replicas].reshape(-1, 2)
    real = mine[:, 0] != PADDING
    index, part = np.where(real[:, None], mine, 0).T  # padding reads the first record

    def example(index: tf.Tensor, part: tf.Tensor, weight: tf.Tensor) -> dict[str, tf.Tensor]:
        image, mask = records.decode(records.read(index))
        image, mask = preprocessing.on_host(image, mask, fit=lambda image, mask: splitter.split(image, mask, part))
        return {"image": image, "mask": mask, "weight": weight, "index": index, "position": index}

    dataset = tf.data.Dataset.from_tensor_slices((index, part, real.astype(np.float32)))
    return untuned(parallel(dataset, example).batch(per_replica, drop_remainder=True).prefetch(2 * replicas))
