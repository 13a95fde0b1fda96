"""Splitter and Merger: the inputs that a case gives in evaluation, and the prediction of the case from their outputs.

    splitter = splitter_for(settings, size=(512, 512))               # eval_fit.py: that of `input.eval_fit`
    image, mask = splitter.split(image, mask, part)                  # in a graph: input `part` of splitter.count(own_size)
    merger = splitter.merger((797, 644))
    merger.aggregate(probabilities)                                  # of each input, in order
    scores = merger.finalize()

Evaluation, validation, pictures of the epochs and `flexseg predict` share one Splitter. The words are MONAI's (`monai.inferers`).
"""

import tensorflow as tf


class Merger:
    """Puts the outputs of a case's inputs together, one at a time, so that they need not be in memory at once."""

    def aggregate(self, probabilities: tf.Tensor) -> None:
        """Takes the probabilities float32 [H, W, K] of the next input of the case."""
        raise NotImplementedError

    def finalize(self) -> tf.Tensor:
        """Probabilities float32 [h, w, K] of the case at its own size, after its last input."""
        raise NotImplementedError


class Splitter:
    """Inputs of one size from cases of any size.

    Args:
      size: (height, width) of the network's input.

    Attributes:
      instead: for a Splitter that takes no larger cases (`largest`), the binding to type instead.
    """

    instead = ""

    def __init__(self, size: tuple[int, int]):
        self.size = size

    @property
    def largest(self) -> tuple[int, int] | None:
        """(height, width) of the largest case that it takes; None for any."""
        return None

    def count(self, own_size: tuple[int, int]) -> int:
        """Number of inputs of a case of `own_size` = (height, width)."""
        return 1

    def split(self, image: tf.Tensor, mask: tf.Tensor, part: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Input `part` of a case.

        Args:
          image, mask: image uint8 [h, w, C] and class ids uint8 [h, w, 1] of the case.
          part: int64 scalar.

        Returns:
          Image uint8 [H, W, C] and mask uint8 [H, W, 1]. Pixels of 255 count nowhere: padding, and what another input of the case counts.
        """
        raise NotImplementedError

    def merger(self, own_size: tuple[int, int]) -> Merger:
        """A Merger for a case of `own_size` = (height, width)."""
        raise NotImplementedError
