"""Records of one split, read by number straight from the TFRecord shards.

    records = dataset.records("train")
    image, mask = records.decode(records.read(index))      # inside a tf.data graph
    truth = records.truth(index)                            # on the host, own size, NumPy

Nothing before a record is read to reach it: the manifest knows shard and byte offset.
"""

import numpy as np
import tensorflow as tf

from flexseg.data.images import decode_image, decode_mask


class Records:
    """The records of one split by their number in the manifest.

    Args:
      files: TFRecord shards.
      shard: int [N], the shard of each record.
      offset: int [N], the byte at which each record's frame starts.
      length: int [N], bytes of each record.
      channels: 1 or 3, image channels of the dataset.
    """

    def __init__(self, *, files: list[str], shard: np.ndarray, offset: np.ndarray, length: np.ndarray, channels: int):
        self.count, self.channels = len(shard), channels
        self._files = tf.constant([str(name) for name in files])
        self._shard, self._offset = tf.constant(shard, tf.int64), tf.constant(offset, tf.int64)
        self._buffer = int(max(length, default=0)) + 64  # one read call a record
        self._features = {"image": tf.io.FixedLenFeature([], tf.string), "mask": tf.io.FixedLenFeature([], tf.string)}

    def read(self, index: tf.Tensor) -> tf.Tensor:
        """The serialised example number `index` (int64 scalar), as a scalar string; graph or eager."""
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=[tf.gather(self._files, tf.gather(self._shard, index))],
            compression_type="",
            buffer_size=self._buffer,
            byte_offsets=tf.reshape(tf.gather(self._offset, index), [1]),
        )
        return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(1).get_single_element()

    def decode(self, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """uint8 image [h, w, C] and uint8 class ids [h, w, 1] at the case's own size."""
        example = tf.io.parse_single_example(serialized, self._features)
        return decode_image(example["image"], channels=self.channels), decode_mask(example["mask"])

    def example(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Host copy of record `index`: uint8 image [h, w, C] and class ids [h, w], own size."""
        image, mask = self.decode(self.read(tf.constant(index, tf.int64)))
        return image.numpy(), mask.numpy()[..., 0]

    def truth(self, index: int) -> np.ndarray:
        """Host copy of the class ids uint8 [h, w] of record `index`, own size."""
        example = tf.io.parse_single_example(self.read(tf.constant(index, tf.int64)), self._features)
        return decode_mask(example["mask"]).numpy()[..., 0]
