"""Preprocessing: from a decoded case to an input on the host, and from a batch of inputs to the network on the device.

    preprocessing = Preprocessing(settings, augment=augment, seed=7)
    image, mask = preprocessing.on_host(image, mask, fit=fit, position=position)      # training, in tf.data: one input of a case
    batch = preprocessing.on_device(batch, dtype="float32")                           # in the compiled step, one replica's batch

    preprocessing = Preprocessing(settings)                                           # evaluation: without augmentation
    image, mask = splitter.split(preprocessing.adjust(image), mask, part)             # one of several inputs of a case
    batch = preprocessing.on_device(batch, dtype="float32")

Training, validation, `flexseg evaluate` and `flexseg predict` all take this way. A case and an input of the network are two things. The way back,
from outputs to the prediction of a case, is a Merger (flexseg/inference/splitter.py).
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from flexseg.data.augmentation import Augment
from flexseg.data.color import apply_gamma, sharpen
from flexseg.data.settings import InputSettings

# (image uint8 [h, w, C], class ids uint8 [h, w, 1]) of a case -> image [H, W, C] and class ids [H, W, 1] of an input
Fit = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The steps between a decoded case and the network, in their order.

    Attributes:
      settings: gamma, sharpening and channel order.
      augment: augmentation of training examples; None in evaluation.
      seed: the seed of the run, for augmentation.
    """

    settings: InputSettings
    augment: Augment | None = None
    seed: int = 0

    def adjust(self, image: tf.Tensor) -> tf.Tensor:
        """Gamma and sharpening of a case, uint8 [h, w, C], at its own size; once a case, where it gives several inputs."""
        if self.settings.gamma:
            image = apply_gamma(image, self.settings.gamma)
        return sharpen(image, self.settings.sharpening) if self.settings.sharpening else image

    def on_host(self, image: tf.Tensor, mask: tf.Tensor, *, fit: Fit, position: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Gamma and sharpening at the case's own size, `fit` to the input size, augmentation.

        Args:
          image, mask: image uint8 [h, w, C] and class ids uint8 [h, w, 1] of a case.
          fit: transform to the input size.
          position: int64 scalar, position in the stream; needed for augmentation.

        Returns:
          Image uint8 [H, W, C], in RGB, and mask uint8 [H, W, 1]; padding is 255 in the mask.
        """
        image, mask = fit(self.adjust(image), mask)
        return (image, mask) if self.augment is None else self.augment(image, mask, seed=self.seed, position=position)

    def on_device(self, batch: dict, *, dtype: str) -> dict:
        """`image` in the channel order (`input.color_order`) and dtype that the network takes; last, because augmentation expects RGB.

        Args:
          batch: `image` uint8 [B, H, W, C], and the other tensors of the batch, such as `mask` and `position`.
          dtype: of the network's input.

        Returns:
          The batch with the new image.
        """
        image = batch["image"][..., ::-1] if self.settings.color_order == "BGR" else batch["image"]
        return batch | {"image": tf.cast(image, dtype)}
