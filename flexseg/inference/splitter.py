"""Splitter: the inputs that a case gives in evaluation, and the prediction of the case from their outputs.

    splitter = splitter_for(settings, size=(512, 512))
    splitter.count((797, 644))                                       # inputs of a case of that size
    image, mask = splitter.split(image, mask, part)                  # in a graph: input `part` of the case
    scores = splitter.merge(probabilities, own_size=(797, 644))      # the outputs of all parts, in order

`resize` and `pad` make one input of the whole case. A Splitter with several parts needs no change elsewhere: evaluation, validation, pictures of the
epochs and `flexseg predict` take the same one. The words are MONAI's (`monai.inferers`: Splitter, Merger).
"""

from collections.abc import Sequence

import tensorflow as tf

from flexseg.data.fit import fit_example
from flexseg.data.images import resize_values
from flexseg.data.settings import InputSettings


class Splitter:
    """Inputs of one size from cases of any size.

    Args:
      size: (height, width) of the network's input.
    """

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
        """Input `part` (int64 scalar) of a case: image uint8 [h, w, C] and class ids uint8 [h, w, 1] -> [H, W, C] and [H, W, 1]."""
        raise NotImplementedError

    def merge(self, outputs: Sequence[tf.Tensor], *, own_size: tuple[int, int]) -> tf.Tensor:
        """Probabilities float32 [H, W, K] of all inputs of a case -> [h, w, K] at its `own_size` = (height, width)."""
        raise NotImplementedError


class Resize(Splitter):
    """The whole case, resized, and its probabilities resized back."""

    def split(self, image: tf.Tensor, mask: tf.Tensor, part: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:  # noqa: D102
        return fit_example(image, mask, size=self.size, fit="resize")

    def merge(self, outputs: Sequence[tf.Tensor], *, own_size: tuple[int, int]) -> tf.Tensor:  # noqa: D102
        (whole,) = outputs
        return whole if tuple(own_size) == tuple(whole.shape[:2]) else resize_values(whole, own_size)


class Pad(Splitter):
    """The whole case, padded at the bottom and on the right, and its probabilities cropped."""

    @property
    def largest(self) -> tuple[int, int]:  # noqa: D102
        return self.size

    def split(self, image: tf.Tensor, mask: tf.Tensor, part: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:  # noqa: D102
        return fit_example(image, mask, size=self.size, fit="pad")

    def merge(self, outputs: Sequence[tf.Tensor], *, own_size: tuple[int, int]) -> tf.Tensor:  # noqa: D102
        (whole,) = outputs
        return whole[: own_size[0], : own_size[1]]


_SPLITTERS = {"resize": Resize, "pad": Pad}


def splitter_for(settings: InputSettings, *, size: tuple[int, int]) -> Splitter:
    """The Splitter of `input.eval_fit`, for a network of input `size` = (height, width)."""
    return _SPLITTERS[settings.evaluation_fit](size)
