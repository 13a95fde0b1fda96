"""Augmentation of training examples: the bindings `augment.*`, and the operations of augmentations/ in their order.

    augment = Augment(rotation_probability=0.5, elastic_probability=0.3)
    image, mask = augment(image, mask, seed=7, position=position)     # inside dataset.map; a pure function of (seed, position)

The operations, with their ranges and their order, are the classes of flexseg/data/augmentations/: first reorders.py (flips and quarter turns), then
warps.py, then colors.py, each from top to bottom. To add one, see operation.py there. Every operation draws from a key of its own, folded from
(seed, position, its key number): its draws depend neither on the others nor on the batch, the worker or the thread.

Arithmetic is float32, and the image is rounded once, at the end. The mask keeps its ids, and what no source pixel covers becomes 255 (ignore). Not
promised: the same pixels on another machine type (float32 products may round differently there); the same normal numbers under XLA or on an
accelerator, for noise, elastic and distortion (what happens, and how strongly, is the same everywhere); a low-pass filter where the content shrinks.
"""

import dataclasses
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import gin
import tensorflow as tf

from flexseg.data.augmentations.colors import COLORS, recolor
from flexseg.data.augmentations.draw import Draw, example_key
from flexseg.data.augmentations.operation import Operation
from flexseg.data.augmentations.reorders import REORDERS, reorder
from flexseg.data.augmentations.warps import WARPS, warp

# Name -> operation, by key number.
OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in sorted([*REORDERS, *WARPS, *COLORS], key=lambda o: o.key_number)}


def _fields() -> list[tuple[str, type, Any]]:
    """(name, type, default) of every binding; operations may share one."""
    fields: dict[str, tuple[Any, Any]] = {"enabled": (bool, True)}
    for operation in OPERATIONS.values():
        fields[operation.probability_name] = float, operation.probability
        fields |= {binding.name: (binding.type, binding.default) for binding in operation.bindings}
    return [(name, kind, dataclasses.field(default=default)) for name, (kind, default) in fields.items()]


def _with_sentences(kind: type) -> type:
    """Puts the sentence of every binding where the docstring says {bindings}."""
    sentences = {name: sentence for operation in OPERATIONS.values() for name, sentence in operation.sentences.items()}
    entries = [textwrap.fill(f"{name}: {sentence}", width=120, subsequent_indent="  ") for name, sentence in sentences.items()]
    # Python 3.13 takes the common indentation out of docstrings.
    kind.__doc__ = re.sub(r"^( *)\{bindings\}", lambda place: textwrap.indent("\n".join(entries), place[1]), kind.__doc__ or "", flags=re.MULTILINE)
    return kind


_Bindings: Any = dataclasses.make_dataclass("_Bindings", _fields(), frozen=True, kw_only=True, namespace={"__module__": __name__})


@gin.configurable("augment")
@_with_sentences
@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment(_Bindings):
    """What may happen to a training image, how often, and within which range.

    A probability is per image; 0 leaves the operation out. A range is (lowest, highest), drawn from uniformly; `scale_factor` and
    `gamma_exponent` uniformly in their logarithm. (a, a) always takes a. The defaults suit H&E-stained tissue and other pictures
    without an up or a left: all eight orientations equally often, moderate warps, the differences of stains and scanners. For
    radiographs, street scenes and the like set `vertical_flip_probability` and `quarter_turns_probability` to 0.

    Attributes:
      enabled: False returns every image and mask as it is.
      {bindings}

    Raises:
      UserError: a probability outside 0..1, a range out of order or beyond what the operation can do.
    """

    def __post_init__(self):
        for operation in OPERATIONS.values():
            operation.check(self)

    def __call__(self, image: tf.Tensor, mask: tf.Tensor, *, seed: int, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Augments one example.

        Args:
          image: uint8 [H, W, C], C of 1 or 3, all static, H and W at least 2.
          mask: uint8 [H, W, 1], class ids.
          seed: the run's seed, an integer.
          position: int64 scalar tensor, the example's position in the endless stream.

        Returns:
          (image uint8 [H, W, C], mask uint8 [H, W, 1]); the mask holds ids that were in it, and 255.
        """
        if not self.enabled:
            return image, mask
        if not image.shape.is_fully_defined() or image.shape[-1] not in (1, 3) or min(image.shape[:2]) < 2 or mask.shape != (*image.shape[:2], 1):
            raise ValueError(f"image must have a static shape [H, W, 1 or 3] and mask [H, W, 1], got {image.shape} and {mask.shape}")
        key = example_key(seed, position)

        def draws(stage: Sequence[Operation]) -> list[Draw]:
            return [Draw(operation, self, key) for operation in stage if getattr(self, operation.probability_name) > 0]

        image, mask = reorder(image, mask, draws(REORDERS))
        image, mask = warp(image, mask, draws(WARPS))
        image = recolor(image, draws(COLORS))
        return tf.saturate_cast(tf.round(image), tf.uint8), mask
