"""Batches for evaluation: every case once, in the order of the manifest.

    dataset = evaluation_batches(records, inputs=InputSettings(), size=(512, 512), batch_size=8, replicas=2)
    for batch in replicas.distribute(dataset): ...

Where cases do not fill the last batch, it is padded with examples of weight 0.
"""

import numpy as np
import tensorflow as tf

from flexseg.data.preprocessing import fitted_to, preprocess
from flexseg.data.records import Records
from flexseg.data.settings import InputSettings
from flexseg.data.tuning import parallel, untuned


def evaluation_batches(
    records: Records, *, inputs: InputSettings, size: tuple[int, int], batch_size: int, replicas: int, workers: int = 1, worker: int = 0
) -> tf.data.Dataset:
    """The evaluation batches of this worker, ordered by step and replica: every record once over all workers.

    A step has `batch_size` records for any number of replicas. The last batch, and replicas that do not divide it, are padded with weight 0.

    Args:
      records: the records of the split.
      inputs: settings of the preprocessing.
      size: (height, width) of the evaluation input.
      batch_size: records per step over all replicas.
      replicas: number of replicas of this worker.
      workers, worker: number of workers, and index of this worker.
    """
    count, per_replica = records.count, -(-batch_size // (replicas * workers))
    slots = np.arange(-(-count // batch_size) * per_replica * replicas * workers)
    step, within = slots // (per_replica * replicas * workers), slots % (per_replica * replicas * workers)
    mine = within // (per_replica * replicas) == worker
    step, within = step[mine], within[mine]
    index = step * batch_size + within
    real = (within < batch_size) & (index < count)
    index = np.where(real, index, 0).astype(np.int64)

    def example(index: tf.Tensor, weight: tf.Tensor) -> dict[str, tf.Tensor]:
        image, mask = preprocess(*records.decode(records.read(index)), inputs, fit=fitted_to(size, inputs.evaluation_fit))
        return {"image": image, "mask": mask, "weight": weight, "index": index, "position": index}

    dataset = tf.data.Dataset.from_tensor_slices((index, real.astype(np.float32)))
    return untuned(parallel(dataset, example).batch(per_replica, drop_remainder=True).prefetch(2 * replicas))
