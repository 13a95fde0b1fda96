"""Batches for evaluation: every input of every case once.

    dataset = evaluation_batches(records, sizes=sizes, preprocessing=preprocessing, splitter=splitter, batch_size=8, replicas=2)
    for batch in replicas.distribute(dataset): ...

The inputs of a batch stand in lanes, and a case stays in one lane. So one process has all outputs of a case, in order, whatever the number of
devices. Where lanes differ in length, batches are padded with examples of weight 0.
"""

import heapq
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from flexseg.data.preprocessing import Preprocessing
from flexseg.data.records import Records
from flexseg.data.tuning import parallel, untuned


class Splits(Protocol):
    """What `evaluation_batches` needs of a Splitter (flexseg/inference/splitter.py)."""

    def count(self, own_size: tuple[int, int]) -> int: ...  # noqa: D102
    def split(self, image: tf.Tensor, mask: tf.Tensor, part: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]: ...  # noqa: D102


def deal(counts: Iterable[int], *, lanes: int) -> list[list[int]]:
    """Deals cases to lanes: each goes to the lane with the fewest inputs so far, the first of equals.

    Where every case gives one input, case i goes to lane i % lanes.

    Args:
      counts: number of inputs of each case.
      lanes: number of lanes.

    Returns:
      The cases of each lane, in order.
    """
    dealt: list[list[int]] = [[] for _ in range(lanes)]
    queue = [(0, lane) for lane in range(lanes)]
    for case, count in enumerate(counts):
        inputs, lane = queue[0]
        dealt[lane].append(case)
        heapq.heapreplace(queue, (inputs + count, lane))
    return dealt


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

    A step has the same `batch_size` inputs for any number of replicas. The weights of a case's inputs add up to 1. A case is decoded once.

    Args:
      records: the records of the split.
      sizes: (height, width) of each record.
      preprocessing: gamma, sharpening and channel order.
      splitter: makes the inputs of a case.
      batch_size: inputs per step over all replicas.
      replicas: number of replicas of this worker.
      workers, worker: number of workers, and index of this worker.
    """
    counts = [splitter.count(size) for size in sizes]
    dealt = deal(counts, lanes=batch_size)
    steps = max(sum(counts[case] for case in cases) for cases in dealt)
    per_replica = -(-batch_size // (replicas * workers))
    lanes = per_replica * replicas
    dealt = (dealt + [[]] * (lanes * workers))[worker * lanes : (worker + 1) * lanes]
    # (index, inputs, weight) of each case of a lane, filled up with inputs of weight 0, which show the first record
    rows = [[(case, counts[case], 1 / counts[case]) for case in cases] for cases in dealt]
    rows = [[*cases, (0, steps - sum(inputs for _, inputs, _ in cases), 0.0)] for cases in rows]

    def case_of(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, mask = records.decode(records.read(index))
        return preprocessing.adjust(image), mask

    def example(image: tf.Tensor, mask: tf.Tensor, index: tf.Tensor, part: tf.Tensor, weight: tf.Tensor) -> dict[str, tf.Tensor]:
        image, mask = splitter.split(image, mask, tf.where(weight > 0, part, 0))
        return {"image": image, "mask": mask, "weight": weight, "index": index, "position": index}

    inputs = _of_whole_cases(rows, steps, case_of, example) if max(counts) == 1 else _of_lanes(rows, case_of, example)
    return untuned(inputs.batch(per_replica, drop_remainder=True).prefetch(2 * replicas))


def _of_whole_cases(rows: list[list[tuple]], steps: int, case_of: Callable, example: Callable) -> tf.data.Dataset:
    """The inputs where every case gives one. Cases are decoded on all cores, which is faster than in lanes."""
    table = np.array([[(index, weight) for index, inputs, weight in cases for _ in range(inputs)] for cases in rows]).reshape(len(rows), steps, 2)
    index, weight = table.swapaxes(0, 1).reshape(-1, 2).T  # by step, then by lane
    dataset = tf.data.Dataset.from_tensor_slices((index.astype(np.int64), weight.astype(np.float32)))
    return parallel(dataset, lambda index, weight: example(*case_of(index), index, tf.constant(0, tf.int64), weight))


def _of_lanes(rows: list[list[tuple]], case_of: Callable, example: Callable) -> tf.data.Dataset:
    """The inputs where a case may give several. A case is decoded once; lanes are read in parallel."""
    length = max(map(len, rows))
    table = np.array([cases + [(0, 0, 0.0)] * (length - len(cases)) for cases in rows])
    columns = table[..., 0].astype(np.int64), table[..., 1].astype(np.int64), table[..., 2].astype(np.float32)

    def lane_of(lane: tf.Tensor) -> tf.data.Dataset:
        cases = tf.data.Dataset.from_tensor_slices(tuple(tf.gather(column, lane) for column in columns))
        return cases.filter(lambda index, inputs, weight: inputs > 0).flat_map(inputs_of)

    def inputs_of(index: tf.Tensor, inputs: tf.Tensor, weight: tf.Tensor) -> tf.data.Dataset:
        image, mask = case_of(index)
        return tf.data.Dataset.range(inputs).map(lambda part: example(image, mask, index, part, weight))

    # No parallel map inside: TensorFlow 2.21 then writes a line on an unknown attribute to standard error.
    lanes, cores = len(rows), len(os.sched_getaffinity(0))
    return tf.data.Dataset.range(lanes).interleave(
        lane_of, cycle_length=lanes, block_length=1, num_parallel_calls=min(lanes, cores), deterministic=True
    )
