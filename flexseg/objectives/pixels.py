"""Pixels: what logits and a mask say about every pixel, as losses and metrics need it.

    pixels = Pixels(logits, mask)
    tf.reduce_sum(pixels.truth * pixels.p, axis=[1, 2, 3])   # soft overlap per example, ignored pixels left out

Everything is float32, or float64 where the logits are: a float16 sum over 512 x 512 pixels overflows at 65504. The tensors are made when first
asked for, with static shapes and no data-dependent sizes, so that XLA compiles what uses them.

Two views stand side by side. *Channels* (K, as the logits have them) are what the reference's formulas are written in. *Classes* (K, but 2 under
the one sigmoid logit: "not it" and "it") are what cross-entropy, focal, Tversky and foreground Dice are written in. For K >= 2 they are the same.

Ids are not checked: an id that is neither a class nor 255 is the dataset builder's to refuse; here it would be counted as a pixel of no class.
"""

from functools import cached_property

import tensorflow as tf

from flexseg.files.label_map import IGNORE


def sum_pixels(values: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] -> [B]: the sum over an example's pixels and channels."""
    return tf.reduce_sum(values, axis=[1, 2, 3])


class Pixels:
    """One batch of logits against its masks.

    Args:
      logits: floating [B, H, W, K]; cast up to float32, float64 is kept.
      mask: integer class ids [B, H, W, 1]; 255 is ignored.

    Attributes:
      channels: K.
      logits: as given, at least float32.
      ids: the mask [B, H, W].
      valid: [B, H, W, 1], 1 where a pixel counts, 0 where it is ignored.
    """

    def __init__(self, logits: tf.Tensor, mask: tf.Tensor):
        logits, mask = tf.convert_to_tensor(logits), tf.convert_to_tensor(mask)
        self.logits = logits if logits.dtype == tf.float64 else tf.cast(logits, tf.float32)
        self.dtype = self.logits.dtype
        self.channels = self.logits.shape[-1]
        self.ids = tf.squeeze(mask, axis=-1)
        self.valid = tf.cast(mask != IGNORE, self.dtype)

    # Channels, [B, H, W, K]: the reference's view.

    @cached_property
    def truth(self) -> tf.Tensor:
        """1 in the channel of the true class, 0 elsewhere and on ignored pixels. K = 1: 1 where the id is 1."""
        if self.channels == 1:
            return tf.cast(self.ids == 1, self.dtype)[..., None]
        return tf.one_hot(self.ids, self.channels, dtype=self.dtype)  # id 255 is beyond the channels and gives zeros

    @cached_property
    def p(self) -> tf.Tensor:
        """Sigmoid (K = 1) or softmax probabilities; 0 on ignored pixels, so that they add to no sum."""
        p = tf.sigmoid(self.logits) if self.channels == 1 else tf.nn.softmax(self.logits)
        return p * self.valid

    @cached_property
    def log_p(self) -> tf.Tensor:
        """log p from the logits, finite for all finite logits, ignored pixels included."""
        return tf.math.log_sigmoid(self.logits) if self.channels == 1 else tf.nn.log_softmax(self.logits)

    @cached_property
    def log_q(self) -> tf.Tensor:
        """log(1 - p) from the logits, finite for all finite logits."""
        if self.channels == 1:
            return tf.math.log_sigmoid(-self.logits)
        # 1 - p cancels only in the largest channel: there log(1 - p) is the logsumexp of the others; elsewhere p <= 1/2 and log1p is exact.
        largest = tf.one_hot(tf.argmax(self.logits, axis=-1), self.channels, on_value=True, off_value=False, dtype=tf.bool)
        others = tf.reduce_logsumexp(tf.where(largest, tf.constant(-float("inf"), self.dtype), self.log_p), axis=-1, keepdims=True)
        small_p = tf.where(largest, tf.zeros([], self.dtype), tf.exp(self.log_p))
        return tf.where(largest, others, tf.math.log1p(-small_p))

    # Classes, [B, H, W, C] with C = max(2, K).

    @cached_property
    def class_truth(self) -> tf.Tensor:
        """One-hot truth over the classes, 0 on ignored pixels."""
        return self.truth if self.channels > 1 else tf.concat([self.valid - self.truth, self.truth], axis=-1)

    @cached_property
    def class_p(self) -> tf.Tensor:
        """Probabilities of the classes, 0 on ignored pixels."""
        return self.p if self.channels > 1 else tf.concat([tf.sigmoid(-self.logits) * self.valid, self.p], axis=-1)

    @cached_property
    def log_p_true(self) -> tf.Tensor:
        """[B, H, W, 1]: log probability of the true class, 0 on ignored pixels."""
        return self._of_true_class(self.log_p, self.log_q)

    @cached_property
    def log_q_true(self) -> tf.Tensor:
        """[B, H, W, 1]: log(1 - probability of the true class), 0 on ignored pixels."""
        return self._of_true_class(self.log_q, self.log_p)

    @cached_property
    def predicted_ids(self) -> tf.Tensor:
        """int64 [B, H, W]: the most probable class; under one sigmoid logit 1 where it is above 0 (p > 1/2)."""
        if self.channels == 1:
            return tf.cast(self.logits[..., 0] > 0, tf.int64)
        if self.channels == 2:
            return tf.cast(self.logits[..., 1] > self.logits[..., 0], tf.int64)  # a third of argmax's time on a CPU, ties alike
        return tf.argmax(self.logits, axis=-1)

    def _of_true_class(self, in_channel: tf.Tensor, in_complement: tf.Tensor) -> tf.Tensor:
        if self.channels == 1:
            return self.truth * in_channel + (self.valid - self.truth) * in_complement
        return tf.reduce_sum(self.truth * in_channel, axis=-1, keepdims=True)
