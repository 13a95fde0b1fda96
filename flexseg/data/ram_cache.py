"""RamCache: keeps the decoded examples of a split in memory: `input.cache = "ram"`.

    records = RamCache(records, sizes=dataset.sizes("train"))       # same interface as Records

Examples are cached at their own size, before cropping, padding and augmentation. They are a list of tensors, because one constant of all bytes would
be copied twice on the way from NumPy to TensorFlow.
"""

import numpy as np
import psutil
import tensorflow as tf

from flexseg.data.records import Records
from flexseg.data.tuning import parallel, untuned
from flexseg.errors import UserError

_SHARE = 0.7  # of the free memory; model and input pipeline need the rest


class RamCache:
    """A drop-in replacement for Records with decoded pixels.

    Args:
      records: the records of the split.
      sizes: (height, width) of each record, int [N, 2].

    Raises:
      UserError: the decoded examples do not fit into the free memory.
    """

    def __init__(self, records: Records, *, sizes: np.ndarray):
        self.count, self.channels = records.count, records.channels
        depth = records.channels + 1
        lengths = np.prod(np.asarray(sizes, np.int64), axis=1) * depth
        need, free = int(lengths.sum()), psutil.virtual_memory().available
        if need > _SHARE * free:
            raise UserError(
                "input.cache",
                expected=f"at most {_SHARE:.0%} of the free memory ({_SHARE * free / 2**30:.2f} GiB)",
                found=f"{self.count} examples of {need / 2**30:.2f} GiB decoded",
                cure="--gin_param=\"input.cache='off'\"",
            )
        examples = untuned(parallel(tf.data.Dataset.range(self.count), lambda i: tf.concat(records.decode(records.read(i)), axis=-1)))

        @tf.function
        def filled() -> tf.Tensor:
            pixels = tf.TensorArray(tf.uint8, size=self.count, infer_shape=False, element_shape=[None, None, depth])
            for i, example in examples.enumerate():
                pixels = pixels.write(tf.cast(i, tf.int32), example)
            return pixels.flow

        with tf.device("CPU:0"):  # not in GPU memory
            self._pixels = filled()

    def read(self, index: tf.Tensor) -> tf.Tensor:
        """Image and mask of record `index` (int64 scalar) as uint8 [h, w, C + 1]."""
        depth = self.channels + 1
        index = tf.cast(index, tf.int32)
        pixels = tf.raw_ops.TensorListGetItem(input_handle=self._pixels, index=index, element_shape=[-1, -1, depth], element_dtype=tf.uint8)
        return tf.ensure_shape(pixels, [None, None, depth])

    def decode(self, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Splits `read` into image uint8 [h, w, C] and class ids uint8 [h, w, 1]."""
        return pixels[..., : self.channels], pixels[..., self.channels :]
