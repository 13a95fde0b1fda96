"""Records: random access to the records of a split in TFRecord shards.

    records = dataset.records("train")
    image, mask = records.decode(records.read(index))      # inside a tf.data graph
    truth = records.truth(index)                            # NumPy, at the case's own size

The manifest has shard and byte offset of every record, so no other record is read.
"""

import numpy as np
import tensorflow as tf

from flexseg.data.images import decode_image, decode_mask


class Records:
    """The records of a split, indexed as in the manifest.

    Args:
      files: TFRecord shards.
      shard: index of the shard of each record, int [N].
      offset: byte offset of the frame of each record, int [N].
      length: bytes of each record, int [N].
      channels: image channels, 1 or 3.
    """

    def __init__(self, *, files: list[str], shard: np.ndarray, offset: np.ndarray, length: np.ndarray, channels: int):
        self.count, self.channels = len(shard), channels
        self._files = tf.constant([str(name) for name in files])
        self._shard, self._offset = tf.constant(shard, tf.int64), tf.constant(offset, tf.int64)
        self._buffer = int(max(length, default=0)) + 64  # one read call per record
        self._features = {"image": tf.io.FixedLenFeature([], tf.string), "mask": tf.io.FixedLenFeature([], tf.string)}

    def read(self, index: tf.Tensor) -> tf.Tensor:
        """Reads the serialized example (scalar string) at `index` (int64 scalar), in graph or eager mode."""
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=[tf.gather(self._files, tf.gather(self._shard, index))],
            compression_type="",
            buffer_size=self._buffer,
            byte_offsets=tf.reshape(tf.gather(self._offset, index), [1]),
        )
        return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(1).get_single_element()

    def decode(self, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Decodes a serialized example to image uint8 [h, w, C] and class ids uint8 [h, w, 1] at the case's own size."""
        example = tf.io.parse_single_example(serialized, self._features)
        return decode_image(example["image"], channels=self.channels), decode_mask(example["mask"])

    def example(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Record `index` as NumPy arrays: image uint8 [h, w, C] and class ids uint8 [h, w] at the case's own size."""
        image, mask = self.decode(self.read(tf.constant(index, tf.int64)))
        return image.numpy(), mask.numpy()[..., 0]

    def truth(self, index: int) -> np.ndarray:
        """Class ids of record `index` as a NumPy array uint8 [h, w] at the case's own size."""
        example = tf.io.parse_single_example(self.read(tf.constant(index, tf.int64)), self._features)
        return decode_mask(example["mask"]).numpy()[..., 0]
