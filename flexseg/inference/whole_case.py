"""Splitters that make one input of a whole case: resized, or padded.

splitter = Pad((512, 512))
image, mask = splitter.split(image, mask, part=0)
"""

# ruff: noqa: D102
# Splitter and Merger document their methods.

from collections.abc import Callable

import tensorflow as tf

from flexseg.data.fit import fit_example
from flexseg.data.images import resize_values
from flexseg.inference.splitter import Merger, Splitter


class Resize(Splitter):
    """The whole case, resized, and its probabilities resized back."""

    def split(self, image: tf.Tensor, mask: tf.Tensor, part: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return fit_example(image, mask, size=self.size, fit="resize")

    def merger(self, own_size: tuple[int, int]) -> Merger:
        return _WholeCase(lambda whole: whole if tuple(own_size) == tuple(self.size) else resize_values(whole, own_size))


class Pad(Splitter):
    """The whole case, padded at the bottom and on the right, and its probabilities cropped."""

    instead = "input.eval_fit='resize'"

    @property
    def largest(self) -> tuple[int, int]:
        return self.size

    def split(self, image: tf.Tensor, mask: tf.Tensor, part: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return fit_example(image, mask, size=self.size, fit="pad")

    def merger(self, own_size: tuple[int, int]) -> Merger:
        return _WholeCase(lambda whole: whole[: own_size[0], : own_size[1]])


class _WholeCase(Merger):
    """Takes one output, and maps it to the case's own size."""

    def __init__(self, to_own_size: Callable[[tf.Tensor], tf.Tensor]):
        self._to_own_size = to_own_size

    def aggregate(self, probabilities: tf.Tensor) -> None:
        self._whole = probabilities

    def finalize(self) -> tf.Tensor:
        return self._to_own_size(self._whole)
