"""Training batches with `tf.data`. A global batch is a pure function of (seed, global step), for any number of replicas and workers.

    stream = Stream(records, inputs=InputSettings(), augment=Augment(), background=0, seed=7, global_batch_size=8)
    per_replica = stream.batches(first_step=100, replicas=2)      # tf.data: replica 0 of step 100, replica 1 of step 100, ...

The stream is endless: every pass shuffles the N records anew. Position p of the stream is record order(seed, p // N)[p % N]. (seed, p) is also the
key of all random numbers of the example (crop, augmentation). So a resumed run starts at any step at no cost, and memory holds the record indices of
one pass. `index_shuffle` is not used: below 65,536 records it uses 8 bits of each key word, so its permutations repeat after 256 passes.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from flexseg.data.augmentation import Augment
from flexseg.data.data_service import striped
from flexseg.data.fit import fit_example, random_crop
from flexseg.data.preprocessing import Fit, Preprocessing
from flexseg.data.ram_cache import RamCache
from flexseg.data.records import Records
from flexseg.data.settings import InputSettings
from flexseg.data.tuning import parallel, untuned

_CROP_KEY = 0x63726F70  # "crop": other random numbers than those of order and augmentation


def order(seed: int, pass_number: tf.Tensor, count: int) -> tf.Tensor:
    """The shuffled record indices int64 [count] of a pass over the split."""
    return tf.random.experimental.stateless_shuffle(tf.range(count, dtype=tf.int64), seed=tf.stack([tf.constant(seed, tf.int64), pass_number]))


class Stream:
    """The endless training stream of a split.

    Args:
      records: the records of the split, or its `RamCache`.
      inputs: settings of the preprocessing.
      augment: the augmentation.
      background: class id of the background, for foreground crops, or None.
      seed: seed of the run.
      global_batch_size: examples per step over all replicas.

    Attributes:
      preprocessing: whose part on the device is still to be applied to the batches.
    """

    def __init__(
        self,
        records: Records | RamCache,
        *,
        inputs: InputSettings,
        augment: Augment,
        background: int | None,
        seed: int,
        global_batch_size: int,
    ):
        self._records, self._inputs, self._background = records, inputs, background
        self._seed, self.global_batch_size = seed, global_batch_size
        self.preprocessing = Preprocessing(inputs, augment=augment, seed=seed)

    def indices(self, step: int) -> list[int]:
        """The record indices of the global batch of `step`."""
        positions, count = range(step * self.global_batch_size, (step + 1) * self.global_batch_size), self._records.count
        orders = {n: order(self._seed, tf.constant(n, tf.int64), count).numpy() for n in {p // count for p in positions}}
        return [int(orders[p // count][p % count]) for p in positions]

    def batches(self, first_step: int, *, replicas: int, workers: int = 1, worker: int = 0, hosts: Sequence[str] = ()) -> tf.data.Dataset:
        """The batches of this worker, ordered by step and replica, of B / (replicas · workers) examples each.

        Args:
          first_step: global step of the first batch.
          replicas: number of replicas of this worker.
          workers, worker: number of workers, and index of this worker.
          hosts: addresses of tf.data service hosts (see data_service.py); default: this host.
        """
        size, count = self.global_batch_size, self._records.count
        per_worker = size // workers
        per_replica = per_worker // replicas
        start = first_step * size

        def positions(pass_number: tf.Tensor, stripe: int, stripes: int) -> tf.data.Dataset:
            position = pass_number * count + tf.range(count, dtype=tf.int64)
            within = position % size - worker * per_worker
            batch = (position - start) // size * replicas + within // per_replica
            mine = (position >= start) & (within >= 0) & (within < per_worker) & (batch % stripes == stripe)
            return tf.data.Dataset.from_tensor_slices((tf.boolean_mask(order(self._seed, pass_number, count), mine), tf.boolean_mask(position, mine)))

        def stripe_of(stripe: int, stripes: int) -> tf.data.Dataset:
            dataset = tf.data.Dataset.range(start // count, np.iinfo(np.int64).max).flat_map(lambda n: positions(n, stripe, stripes))
            return parallel(dataset, self.example, elsewhere=bool(hosts)).batch(per_replica, drop_remainder=True)

        dataset = striped(stripe_of, hosts).prefetch(2 * replicas)
        dataset = dataset if hosts else untuned(dataset)
        # Otherwise several workers communicate before every batch to find out if a dataset has ended.
        return dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))

    def example(self, index: tf.Tensor, position: tf.Tensor) -> dict[str, tf.Tensor]:
        """The training example of record `index` at `position` of the stream (int64 scalars): image, mask, weight, index, position."""
        image, mask = self._records.decode(self._records.read(index))
        image, mask = self.preprocessing.on_host(image, mask, fit=self._fit(position), position=position)
        return {"image": image, "mask": mask, "weight": tf.constant(1.0), "index": index, "position": position}

    def _fit(self, position: tf.Tensor) -> Fit:
        inputs = self._inputs
        if inputs.fit != "random_crop":
            return lambda image, mask: fit_example(image, mask, size=inputs.image_size, fit=inputs.fit)
        key = tf.random.experimental.stateless_fold_in(tf.constant([self._seed, _CROP_KEY], tf.int64), position)
        draw = {"key": key, "foreground_probability": inputs.foreground_crop_probability, "background": self._background}
        return lambda image, mask: random_crop(image, mask, size=inputs.image_size, **draw)
