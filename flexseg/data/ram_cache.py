"""Decoded examples of a split kept in memory: `input.cache = "ram"`.

    records = RamCache(records)       # reads like Records, decodes nothing any more

Examples lie at their own size, end to end, in one buffer of bytes, so that crops, padding and mixed sizes work as without it.
"""

import numpy as np
import psutil
import tensorflow as tf

from flexseg.data.records import Records
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
                cure='--gin_param="input.cache=\'off\'"',
            )
        starts = np.concatenate([[0], np.cumsum(lengths)])
        buffer = np.empty(starts[-1], np.uint8)
        dataset = tf.data.Dataset.range(self.count).map(lambda i: records.decode(records.read(i)), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        for i, (image, mask) in enumerate(dataset.as_numpy_iterator()):
            buffer[starts[i] : starts[i + 1]] = np.concatenate([image, mask], axis=-1).ravel()
        self._buffer = tf.constant(buffer)
        self._starts, self._sizes = tf.constant(starts[:-1]), tf.constant(np.asarray(sizes, np.int64))

    def read(self, index: tf.Tensor) -> tf.Tensor:
        """uint8 [h, w, C + 1]: image and mask of record `index` (int64 scalar)."""
        size = self._sizes[index]
        depth = self.channels + 1
        pixels = tf.slice(self._buffer, [self._starts[index]], [size[0] * size[1] * depth])
        return tf.reshape(pixels, [size[0], size[1], depth])

    def decode(self, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """uint8 image [h, w, C] and class ids [h, w, 1]."""
        return pixels[..., : self.channels], pixels[..., self.channels :]
