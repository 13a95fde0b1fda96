"""Operations that reorder whole pixels: flips and quarter turns. They apply in the order of this file, to the image and the mask alike.

    image, mask = reorder(image, mask, [Draw(operation, settings, key) for operation in REORDERS])

No pixel is resampled: all that happens becomes one of the eight reorderings of `geometry.permute`.
"""

# ruff: noqa: D102
# ReorderOperation documents `__call__` for all its operations.

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from flexseg.data import geometry
from flexseg.data.augmentations.draw import Draw
from flexseg.data.augmentations.operation import Operation, next_in

REORDERS: list[Operation] = []


class Reordering(NamedTuple):
    """One of the eight reorderings: transposed or not, then its rows reversed or not, then its columns.

    Attributes:
      transpose: bool scalar tensor, or False where rows cannot become columns.
      flip_y: bool scalar tensor, upside down.
      flip_x: bool scalar tensor, left to right.
    """

    transpose: tf.Tensor | bool
    flip_y: tf.Tensor
    flip_x: tf.Tensor

    def transposed(self, when: tf.Tensor) -> "Reordering":
        """A transposition after this one, which turns a flip of rows into a flip of columns."""
        return Reordering(self.transpose ^ when, tf.where(when, self.flip_x, self.flip_y), tf.where(when, self.flip_y, self.flip_x))

    def upside_down(self, when: tf.Tensor) -> "Reordering":
        """A flip of rows after this one."""
        return self._replace(flip_y=self.flip_y ^ when)

    def left_to_right(self, when: tf.Tensor) -> "Reordering":
        """A flip of columns after this one."""
        return self._replace(flip_x=self.flip_x ^ when)


class ReorderOperation(Operation):
    """An operation of this stage."""

    def __call__(self, order: Reordering, *, size: tuple[int, int], draw: Draw) -> Reordering:
        """The reordering with this operation after it, where `draw.happens`. `size`: (H, W) of the image."""
        raise NotImplementedError


def reorder(image: tf.Tensor, mask: tf.Tensor, draws: Sequence[Draw]) -> tuple[tf.Tensor, tf.Tensor]:
    """Image [H, W, C] and mask [H, W, 1] in another order."""
    if not draws:
        return image, mask
    order, size = Reordering(False, tf.constant(False), tf.constant(False)), tuple(image.shape[:2])
    for draw in draws:
        order = draw.operation(order, size=size, draw=draw)
    image, mask = (geometry.permute(pixels, **order._asdict()) for pixels in (image, mask))
    return image, mask


@next_in(REORDERS)
class QuarterTurns(ReorderOperation):
    """Turns the image by 90, 180 or 270 degrees, equally often (0.75 makes all four orientations equal). An image that is not square is turned by
    180 degrees, as 90 would not fit."""

    name = "quarter_turns"
    key_number = 3
    probability = 0.75

    def __call__(self, order, *, size, draw):
        square = size[0] == size[1]
        turns = 1 + tf.cast(draw.shares[0] * 3.0, tf.int32) if square else tf.constant(2)  # by 90 degrees
        # Counter-clockwise: 90 degrees = transpose, then upside down; 180 = both flips; 270 = transpose, then left to right.
        if square:
            order = order.transposed(draw.happens & (turns != 2))
        return order.upside_down(draw.happens & (turns <= 2)).left_to_right(draw.happens & (turns >= 2))


@next_in(REORDERS)
class HorizontalFlip(ReorderOperation):
    """Mirrors the image left to right."""

    name = "horizontal_flip"
    key_number = 1
    probability = 0.5

    def __call__(self, order, *, size, draw):
        return order.left_to_right(draw.happens)


@next_in(REORDERS)
class VerticalFlip(ReorderOperation):
    """Mirrors the image top to bottom."""

    name = "vertical_flip"
    key_number = 2
    probability = 0.5

    def __call__(self, order, *, size, draw):
        return order.upside_down(draw.happens)
