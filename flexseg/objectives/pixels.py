"""Pixels: one-hot truth, probabilities and log-probabilities of a batch, for losses and metrics.

    pixels = Pixels(logits, mask)
    tf.reduce_sum(pixels.truth * pixels.p, axis=[1, 2, 3])   # soft intersection per example, without ignored pixels

Tensors are float32, or float64 for float64 logits, because a float16 sum over 512 x 512 pixels overflows at 65504. They are computed on first use.
All shapes are static, for XLA.

There are two views. *Channels* are the K channels of the logits; the reference's losses and metrics use them. *Classes* are the K classes, or 2 for
one sigmoid logit; cross-entropy, focal, Tversky and foreground Dice use them. For K >= 2 both are the same.

Class ids are not checked here; the dataset builder does. An id that is neither a class nor 255 would count as a pixel of no class.
"""

from functools import cached_property

import tensorflow as tf

from flexseg.files.label_map import IGNORE


def sum_pixels(values: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] -> [B]: the sum over pixels and channels."""
    return tf.reduce_sum(values, axis=[1, 2, 3])


class Pixels:
    """Logits and masks of a batch.

    Args:
      logits: floating [B, H, W, K]; cast to float32 unless float64.
      mask: integer class ids [B, H, W, 1], 255 = ignored.

    Attributes:
      channels: K.
      logits: the logits, at least float32.
      ids: the mask [B, H, W].
      valid: [B, H, W, 1], 0 for ignored pixels, else 1.
    """

    def __init__(self, logits: tf.Tensor, mask: tf.Tensor):
        logits, mask = tf.convert_to_tensor(logits), tf.convert_to_tensor(mask)
        self.logits = logits if logits.dtype == tf.float64 else tf.cast(logits, tf.float32)
        self.dtype = self.logits.dtype
        self.channels = self.logits.shape[-1]
        self.ids = tf.squeeze(mask, axis=-1)
        self.valid = tf.cast(mask != IGNORE, self.dtype)

    # Channels, [B, H, W, K]

    @cached_property
    def truth(self) -> tf.Tensor:
        """One-hot truth, 0 on ignored pixels; for K = 1 it is (id == 1)."""
        if self.channels == 1:
            return tf.cast(self.ids == 1, self.dtype)[..., None]
        return tf.one_hot(self.ids, self.channels, dtype=self.dtype)  # id 255 has no channel, so zeros

    @cached_property
    def p(self) -> tf.Tensor:
        """Probabilities: sigmoid (K = 1) or softmax; 0 on ignored pixels."""
        p = tf.sigmoid(self.logits) if self.channels == 1 else tf.nn.softmax(self.logits)
        return p * self.valid

    @cached_property
    def log_p(self) -> tf.Tensor:
        """log p, finite for all finite logits; ignored pixels are not masked."""
        return tf.math.log_sigmoid(self.logits) if self.channels == 1 else tf.nn.log_softmax(self.logits)

    @cached_property
    def log_q(self) -> tf.Tensor:
        """log(1 - p), finite for all finite logits; ignored pixels are not masked."""
        if self.channels == 1:
            return tf.math.log_sigmoid(-self.logits)
        # 1 - p loses precision in the largest channel only: there log(1 - p) is the logsumexp of the others. Elsewhere p <= 1/2 and log1p is exact.
        largest = tf.one_hot(tf.argmax(self.logits, axis=-1), self.channels, on_value=True, off_value=False, dtype=tf.bool)
        others = tf.reduce_logsumexp(tf.where(largest, tf.constant(-float("inf"), self.dtype), self.log_p), axis=-1, keepdims=True)
        small_p = tf.where(largest, tf.zeros([], self.dtype), tf.exp(self.log_p))
        return tf.where(largest, others, tf.math.log1p(-small_p))

    # Classes, [B, H, W, C] with C = max(2, K).

    @cached_property
    def class_truth(self) -> tf.Tensor:
        """One-hot truth over classes, 0 on ignored pixels."""
        return self.truth if self.channels > 1 else tf.concat([self.valid - self.truth, self.truth], axis=-1)

    @cached_property
    def class_p(self) -> tf.Tensor:
        """Probabilities of the classes, 0 on ignored pixels."""
        return self.p if self.channels > 1 else tf.concat([tf.sigmoid(-self.logits) * self.valid, self.p], axis=-1)

    @cached_property
    def log_p_true(self) -> tf.Tensor:
        """[B, H, W, 1]: log p of the true class, 0 on ignored pixels."""
        return self._of_true_class(self.log_p, self.log_q)

    @cached_property
    def log_q_true(self) -> tf.Tensor:
        """[B, H, W, 1]: log(1 - p) of the true class, 0 on ignored pixels."""
        return self._of_true_class(self.log_q, self.log_p)

    @cached_property
    def predicted_ids(self) -> tf.Tensor:
        """int64 [B, H, W]: argmax of the logits; for one sigmoid logit (p > 1/2)."""
        if self.channels == 1:
            return tf.cast(self.logits[..., 0] > 0, tf.int64)
        if self.channels == 2:
            return tf.cast(self.logits[..., 1] > self.logits[..., 0], tf.int64)  # a third of argmax's time on a CPU, with the same ties
        return tf.argmax(self.logits, axis=-1)

    def _of_true_class(self, in_channel: tf.Tensor, in_complement: tf.Tensor) -> tf.Tensor:
        if self.channels == 1:
            return self.truth * in_channel + (self.valid - self.truth) * in_complement
        return tf.reduce_sum(self.truth * in_channel, axis=-1, keepdims=True)
