"""Settings of input size and preprocessing: the bindings `input.*`.

    input.image_size = (512, 512)
    input.fit = "random_crop"

Augmentation has settings of its own: `augment.*`.
"""

import dataclasses
from typing import Literal

import gin

from flexseg.errors import UserError


@gin.configurable("input")
@dataclasses.dataclass(frozen=True, kw_only=True)
class InputSettings:
    """Input size, resizing, preprocessing and caching.

    Attributes:
      image_size: (height, width) of the training input in pixels.
      fit: transform of training examples to `image_size`: `resize` (bilinear with antialiasing, nearest neighbour for the mask), `pad` (reflected
        image, 255 in the mask; larger images are an error) or `random_crop` (a new crop in every pass; smaller images are padded).
      foreground_crop_probability: probability that a random crop is centred on a foreground pixel; requires `fit = "random_crop"`.
      eval_fit: transform for evaluation and prediction, `resize` or `pad`; default: `resize` if `fit` is `resize`, else `pad`.
      eval_image_size: (height, width) of the evaluation input; default: `image_size`, or for `random_crop` with `pad` the smallest multiple of 32
        that covers every image of the dataset.
      color_order: channel order, `RGB`, or `BGR` for weights that the reference trained (OpenCV's order).
      gamma: gamma correction of every image, (i / 255) ** gamma * 255 as in the reference; 0 for none.
      sharpening: strength of the reference's sharpening filter, on every image; 0 for none.
      cache: `ram` keeps the decoded training examples in memory; `off` decodes them in every pass.
    """

    image_size: tuple[int, int] = (512, 512)
    fit: Literal["resize", "pad", "random_crop"] = "resize"
    foreground_crop_probability: float = 0.0
    eval_fit: Literal["resize", "pad"] | None = None
    eval_image_size: tuple[int, int] | None = None
    color_order: Literal["RGB", "BGR"] = "RGB"
    gamma: float = 0.0
    sharpening: float = 0.0
    cache: Literal["off", "ram"] = "off"

    def __post_init__(self) -> None:
        for name in ("image_size", "eval_image_size"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise UserError(f"input.{name}", expected="(height, width) of at least 1 pixel", found=repr(size))
        if not 0 <= self.foreground_crop_probability <= 1:
            raise UserError("input.foreground_crop_probability", expected="a share from 0 to 1", found=str(self.foreground_crop_probability))
        if self.foreground_crop_probability and self.fit != "random_crop":
            raise UserError("input.foreground_crop_probability", expected='input.fit = "random_crop" beside it', found=f"input.fit = {self.fit!r}")
        if self.gamma < 0 or self.sharpening < 0:
            raise UserError("input.gamma, input.sharpening", expected="0 (none) or more", found=f"{self.gamma}, {self.sharpening}")

    @property
    def evaluation_fit(self) -> str:
        """`eval_fit` or its default: `resize` or `pad`."""
        return self.eval_fit or ("resize" if self.fit == "resize" else "pad")

    def evaluation_size(self, largest: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the evaluation input; `largest` = (largest height, largest width) of the dataset."""
        if self.eval_image_size is not None:
            height, width = self.eval_image_size
        elif self.fit == "random_crop" and self.evaluation_fit == "pad":
            height, width = (-(-side // 32) * 32 for side in largest)
        else:
            height, width = self.image_size
        return height, width
