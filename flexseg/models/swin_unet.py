"""SwinUNet: a U-Net of transformers whose attention stays within shifted windows (Cao et al. 2021, arXiv:2105.05537).

    model = swin_unet(image_size=(512, 512), image_channels=3, num_classes=2, base_filters=64, window_sizes=(4, 2, 2, 2))

The reference's network, which it has from keras-unet-collection. Mended here: it had no default window and did not run without one, nor under Keras
3; its table of offsets counted as weights, and its pixels were not scaled. Like it, and unlike the authors' code, it learns an embedding of
positions, has no normalization where places are made, merged and expanded, and smaller windows than 7.
"""

from typing import Literal

import gin
import keras

from flexseg.errors import UserError
from flexseg.models.layers.attention import PositionEmbedding, WindowAttention, perceptron
from flexseg.models.layers.blocks import ACTIVATIONS, check_choice, check_whole
from flexseg.models.layers.convolutions import Conv2D
from flexseg.models.layers.inputs_outputs import check_head, check_image_size, check_rate, image_input, logits


@gin.configurable("swin_unet")
def swin_unet(
    *,
    image_size: tuple[int, int],
    image_channels: int,
    num_classes: int,
    base_filters: int = 128,
    num_layers: int = 4,
    blocks_down: int = 2,
    blocks_up: int = 2,
    patch_size: Literal[2, 4, 8] = 4,
    num_heads: tuple[int, ...] = (4, 8, 8, 8),
    window_sizes: tuple[int, ...] = (4, 2, 2, 2),
    num_mlp: int = 512,
    dropout_rate: float = 0.0,
    activation: str = "gelu",
    input_normalize: bool = True,
) -> keras.Model:
    """Builds a SwinUNet under the global dtype policy. Normalization is a LayerNormalization, as in every transformer.

    Level i of `num_layers` has base_filters * 2**i channels on a map of 1 / (patch_size * 2**i) of the image.

    Args:
      image_size: (height, width) in pixels; every level's map must be whole windows.
      image_channels: channels of the image.
      num_classes: 1 = one sigmoid logit; 2 or more = softmax over all classes.
      base_filters: channels of level 0 (the reference's `filter_num_begin`).
      num_layers: levels (the reference's `depth`), 2 or more.
      blocks_down, blocks_up: transformer blocks of a level (`stack_num_down`, `stack_num_up`); every second one is shifted by half a window.
      patch_size: pixels of a side that make one place of level 0.
      num_heads: of every level, a divisor of its channels. The decoder's level takes those of the one below, as in the reference.
      window_sizes: sides of every level's windows. The decoder's level takes those of the one below.
      num_mlp: units between the two layers of every perceptron.
      dropout_rate: in the perceptrons; the reference drops nothing.
      activation: of the perceptrons, any Keras name of ACTIVATIONS.
      input_normalize: the network divides pixels by 255 itself.

    Returns:
      keras.Model: float32 [B, height, width, image_channels] of raw pixels 0..255 -> float32 logits [B, height, width, num_classes]. Its weights
      belong to this image size.

    Raises:
      UserError: a value out of range, or an image size that is not whole windows on every level.
    """
    owner = "swin_unet"
    check_head(image_channels, num_classes, owner=owner)
    numbers = {"base_filters": base_filters, "blocks_down": blocks_down, "blocks_up": blocks_up, "num_mlp": num_mlp}
    for name, value in numbers.items():
        check_whole(value, 1, owner=owner, name=name)
    check_whole(num_layers, 2, owner=owner, name="num_layers")
    check_rate(dropout_rate, owner=owner)
    check_choice(activation, ACTIVATIONS, owner=owner, name="activation")
    for name, values in (("num_heads", num_heads), ("window_sizes", window_sizes)):
        if len(values) != num_layers:
            raise UserError(f"{owner}.{name}", expected=f"{num_layers} numbers, one a level", found=repr(values))
        for value in values:
            check_whole(value, 1, owner=owner, name=name)
    if patch_size not in (2, 4, 8) or base_filters % patch_size:
        raise UserError(f"{owner}.patch_size", expected=f"2, 4 or 8, a divisor of base_filters, {base_filters}", found=repr(patch_size))
    for level, heads in enumerate(num_heads):
        if base_filters * 2**level % heads or (level and base_filters * 2 ** (level - 1) % heads):
            raise UserError(f"{owner}.num_heads", expected=f"divisors of the channels, of level {level} and above it", found=repr(num_heads))
    # Level i is divided into its own windows on the way down and into those of the level below on the way up.
    steps = [window * 2**level * patch_size for level, window in enumerate(window_sizes)]
    steps += [window * 2 ** (level - 1) * patch_size for level, window in enumerate(window_sizes) if level]
    step = max(steps)
    while any(step % each for each in steps):
        step += max(steps)
    check_image_size(image_size, step, because=f"whole windows of {window_sizes} on {num_layers} levels of patches of {patch_size}")

    def blocks(x, count: int, *, heads: int, window: int, name: str):
        whole = window == min(x.shape[1:3])  # one window has nobody to shift to
        for number in range(count):
            place = f"{name}_block_{number}"
            shift = window // 2 if number % 2 and not whole else 0
            y = keras.layers.LayerNormalization(epsilon=1e-5, name=f"{place}_norm_a")(x)
            y = WindowAttention(num_heads=heads, window=window, shift=shift, name=f"{place}_attention")(y)
            x = keras.layers.Add(name=f"{place}_add_a")([x, y])
            y = keras.layers.LayerNormalization(epsilon=1e-5, name=f"{place}_norm_b")(x)
            y = perceptron(y, num_mlp, activation=activation, dropout_rate=dropout_rate, name=f"{place}_mlp")
            x = keras.layers.Add(name=f"{place}_add_b")([x, y])
        return x

    inputs, x = image_input(image_size, image_channels, scale=input_normalize)
    x = Conv2D(base_filters, patch_size, strides=patch_size, name="patches")(x)
    x = PositionEmbedding(name="positions")(x)
    skips = []
    for level in range(num_layers):
        if level:  # 2 × 2 places become one of twice the channels
            x = Conv2D(base_filters * 2**level, 2, strides=2, use_bias=False, name=f"encoder_{level}_merge")(x)
        x = blocks(x, blocks_down, heads=num_heads[level], window=window_sizes[level], name=f"encoder_{level}")
        skips.append(x)
    for level in reversed(range(num_layers - 1)):
        x = keras.layers.Concatenate(name=f"decoder_{level}_concat")([_expanded(x, 2, name=f"decoder_{level}"), skips[level]])
        x = keras.layers.Dense(base_filters * 2**level, use_bias=False, name=f"decoder_{level}_reduce")(x)
        x = blocks(x, blocks_up, heads=num_heads[level + 1], window=window_sizes[level + 1], name=f"decoder_{level}")
    x = _expanded(x, patch_size, name="pixels")
    return keras.Model(inputs, logits(x, num_classes, use_bias=False), name=owner)


def _expanded(x, times: int, *, name: str):
    """[B, H, W, C] to [B, times · H, times · W, C / times]: a linear layer, then channels become places."""
    x = Conv2D(times * x.shape[-1], 1, use_bias=False, name=f"{name}_expand")(x)
    return DepthToSpace(times, name=f"{name}_places")(x)


class DepthToSpace(keras.layers.Layer):
    """Every times² channels of a place become times × times places (tf.nn.depth_to_space)."""

    def __init__(self, times: int, *, name: str):
        super().__init__(name=name)
        self.times = times

    def call(self, x):
        """[B, H, W, C] to [B, times · H, times · W, C / times²]."""
        _, height, width, channels = x.shape
        x = keras.ops.reshape(x, (-1, height, width, self.times, self.times, channels // self.times**2))
        return keras.ops.reshape(keras.ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, height * self.times, width * self.times, channels // self.times**2))

    def compute_output_shape(self, input_shape):
        """See call."""
        batch, height, width, channels = input_shape
        return batch, height * self.times, width * self.times, channels // self.times**2
