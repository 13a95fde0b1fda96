"""SwinUNet: a U-Net of transformers whose attention stays within shifted windows (Cao et al. 2021, arXiv:2105.05537).

    model = swin_unet(image_size=(512, 512), image_channels=3, num_classes=2, base_filters=64, window_sizes=(4, 2, 2, 2))

The reference's network, which it has from keras-unet-collection. Fixed here: it had no default window and did not run without one, nor under Keras
3; its table of offsets counted as weights, and its pixels were not scaled. Like it, and unlike the authors' code, it learns an embedding of
positions, has no normalization where patches are made, merged and expanded, and smaller windows than 7.
"""

import math
from typing import Annotated, Any, Literal

import gin
import keras

from flexseg.errors import UserError
from flexseg.models.layers.architecture import architecture
from flexseg.models.layers.arguments import AtLeast, Count, Rate, check_image_size
from flexseg.models.layers.attention import PositionEmbedding, WindowAttention, transformer_block
from flexseg.models.layers.conv_style import ActivationName
from flexseg.models.layers.convolutions import Conv2D
from flexseg.models.layers.inputs_outputs import logits
from flexseg.models.layers.task import Task


@gin.configurable("swin_unet")
@architecture
def swin_unet(
    *,
    task: Task,
    base_filters: Count = 128,
    num_layers: Annotated[int, AtLeast(2)] = 4,
    blocks_down: Count = 2,
    blocks_up: Count = 2,
    patch_size: Literal[2, 4, 8] = 4,
    num_heads: tuple[Count, ...] = (4, 8, 8, 8),
    window_sizes: tuple[Count, ...] = (4, 2, 2, 2),
    num_mlp: Count = 512,
    dropout_rate: Rate = 0.0,
    activation: ActivationName = "gelu",
) -> keras.Model:
    """Builds a SwinUNet under the global dtype policy: raw pixels [B, H, W, C] to logits [B, H, W, num_classes].

    Level i of `num_layers` has base_filters * 2**i channels on a map of 1 / (patch_size * 2**i) of the image; every level's map must be whole
    windows, and the weights belong to this image size. Normalization is a LayerNormalization, as in every transformer.

    Args:
      base_filters: channels of level 0 (the reference's `filter_num_begin`).
      num_layers: levels (the reference's `depth`), 2 or more.
      blocks_down, blocks_up: transformer blocks of a level (`stack_num_down`, `stack_num_up`); every second one is shifted by half a window.
      patch_size: side in pixels of the patch that makes one position of level 0.
      num_heads: heads of every level, a divisor of its channels. The decoder's level takes those of the one below, as in the reference.
      window_sizes: sides of every level's windows. The decoder's level takes those of the one below.
      num_mlp: units between the two layers of every perceptron.
      dropout_rate: dropout in the perceptrons; the reference drops nothing.
      activation: activation of the perceptrons, any Keras name of ACTIVATIONS.
    """
    for name, values in (("num_heads", num_heads), ("window_sizes", window_sizes)):
        if len(values) != num_layers:
            raise UserError(f"swin_unet.{name}", expected=f"{num_layers} numbers, one a level", found=repr(values))
    if patch_size not in (2, 4, 8) or base_filters % patch_size:
        raise UserError("swin_unet.patch_size", expected=f"2, 4 or 8, a divisor of base_filters, {base_filters}", found=repr(patch_size))
    for level, heads in enumerate(num_heads):
        if base_filters * 2**level % heads or (level and base_filters * 2 ** (level - 1) % heads):
            raise UserError("swin_unet.num_heads", expected=f"divisors of the channels, of level {level} and above it", found=repr(num_heads))
    # Level i is divided into its own windows on the way down and into those of the level below on the way up.
    steps = [window * 2**level * patch_size for level, window in enumerate(window_sizes)]
    steps += [window * 2 ** (level - 1) * patch_size for level, window in enumerate(window_sizes) if level]
    because = f"whole windows of {window_sizes} on {num_layers} levels of patches of {patch_size}"
    check_image_size(task.image_size, math.lcm(*steps), because=because)

    def blocks(x: keras.KerasTensor, count: int, *, heads: int, window: int, name: str) -> keras.KerasTensor:
        whole = window == min(x.shape[1:3])  # one window has nobody to shift to
        for number in range(count):
            part, shift = f"{name}_block_{number}", window // 2 if number % 2 and not whole else 0
            attention = WindowAttention(num_heads=heads, window=window, shift=shift, name=f"{part}_attention")
            x = transformer_block(x, attention, num_mlp, activation=activation, epsilon=1e-5, dropout_rate=dropout_rate, name=part)
        return x

    inputs, x = task.inputs()
    x = Conv2D(base_filters, patch_size, strides=patch_size, name="patches")(x)
    x = PositionEmbedding(name="positions")(x)
    skips = []
    for level in range(num_layers):
        if level:  # 2 × 2 positions become one of twice the channels
            x = Conv2D(base_filters * 2**level, 2, strides=2, use_bias=False, name=f"encoder_{level}_merge")(x)
        x = blocks(x, blocks_down, heads=num_heads[level], window=window_sizes[level], name=f"encoder_{level}")
        skips.append(x)
    for level in reversed(range(num_layers - 1)):
        x = keras.layers.Concatenate(name=f"decoder_{level}_concat")([_expanded(x, 2, name=f"decoder_{level}"), skips[level]])
        x = keras.layers.Dense(base_filters * 2**level, use_bias=False, name=f"decoder_{level}_reduce")(x)
        x = blocks(x, blocks_up, heads=num_heads[level + 1], window=window_sizes[level + 1], name=f"decoder_{level}")
    x = _expanded(x, patch_size, name="pixels")
    return keras.Model(inputs, logits(x, task.num_classes, use_bias=False), name="swin_unet")


def _expanded(x: keras.KerasTensor, times: int, *, name: str) -> keras.KerasTensor:
    """[B, H, W, C] to [B, times · H, times · W, C / times]: a linear layer, then channels become positions."""
    x = Conv2D(times * x.shape[-1], 1, use_bias=False, name=f"{name}_expand")(x)
    return DepthToSpace(times, name=f"{name}_places")(x)


class DepthToSpace(keras.layers.Layer):
    """Every times² channels of a position become times × times positions (tf.nn.depth_to_space)."""

    def __init__(self, times: int, *, name: str):
        super().__init__(name=name)
        self.times = times

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """[B, H, W, C] to [B, times · H, times · W, C / times²]."""
        _, height, width, channels = x.shape
        x = keras.ops.reshape(x, (-1, height, width, self.times, self.times, channels // self.times**2))
        return keras.ops.reshape(keras.ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, height * self.times, width * self.times, channels // self.times**2))

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """See call."""
        batch, height, width, channels = input_shape
        return batch, height * self.times, width * self.times, channels // self.times**2
