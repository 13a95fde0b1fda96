"""Decoded examples of a split kept in memory: `input.cache = "ram"`.

    records = RamCache(records, sizes=dataset.sizes("train"))       # reads like Records, decodes nothing any more

Examples lie at their own size, so that crops, padding and mixed sizes work as without it, in a list of tensors: one constant of
all bytes would be copied twice on its way from NumPy into TensorFlow.
"""

import numpy as np
import psutil
import tensorflow as tf

from flexseg.data.records import Records
from flexseg.data.tuning import parallel, untuned
from flexseg.errors import UserError

_SHARE = 0.7  # of the memory that is free now; the model and the input pipeline need the rest


class RamCache:
    """A drop-in for Records over decoded pixels.

    Args:
      records: the split's records.
      sizes: int [N, 2], (height, width) of each.

    Raises:
      UserError: when the pixels would not fit into the memory that is free now.
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

        with tf.device("CPU:0"):  # not the memory of a GPU
            self._pixels = filled()

    def read(self, index: tf.Tensor) -> tf.Tensor:
        """uint8 [h, w, C + 1]: image and mask of record `index` (int64 scalar)."""
        depth = self.channels + 1
        index = tf.cast(index, tf.int32)
        pixels = tf.raw_ops.TensorListGetItem(input_handle=self._pixels, index=index, element_shape=[-1, -1, depth], element_dtype=tf.uint8)
        return tf.ensure_shape(pixels, [None, None, depth])

    def decode(self, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """uint8 image [h, w, C] and class ids [h, w, 1]."""
        return pixels[..., : self.channels], pixels[..., self.channels :]
