"""TransUNet: a U-Net with a vision transformer at its bottom (Chen et al. 2021, arXiv:2102.04306).

    model = transunet(image_size=(512, 512), image_channels=3, num_classes=2, base_filters=64, num_layers=4, num_transformer=12)

The reference's network, which it has from keras-unet-collection, with a convolutional encoder of its own. Mended here: it did not run under Keras 3;
every head was as wide as the whole token (key_dim="embedding" gives that, 407 million weights by its defaults, where the paper's is its share); its
perceptrons ended in an activation, so that a token could hardly be lowered; one of its settings was read under another one's name. Like it, and
unlike the authors' code, it normalizes nothing behind the last transformer block.
"""

from typing import Literal

import gin
import keras

from flexseg.errors import UserError
from flexseg.models.layers.attention import PositionEmbedding, perceptron
from flexseg.models.layers.blocks import ACTIVATIONS, ConvStyle, check_choice, check_whole, conv_unit, level_dilations, level_kernels
from flexseg.models.layers.convolutions import Conv2D
from flexseg.models.layers.inputs_outputs import check_head, check_image_size, check_rate, image_input, logits
from flexseg.models.layers.upsampling import BilinearUpsampling


@gin.configurable("transunet")
def transunet(
    *,
    image_size: tuple[int, int],
    image_channels: int,
    num_classes: int,
    base_filters: int = 64,
    base_kernels: int | tuple[int, int] = (3, 3),
    num_layers: int = 4,
    embed_dim: int = 768,
    num_heads: int = 12,
    num_transformer: int = 12,
    num_mlp: int = 3072,
    key_dim: Literal["share", "embedding"] = "share",
    mlp_activation: str = "gelu",
    dropout_rate: float = 0.0,
    dilation: int | tuple[int, int] = (1, 1),
    normalization: Literal["none", "batch", "sync_batch", "group"] = "batch",
    activation: str = "relu",
    input_normalize: bool = True,
    group_count: int = 8,
    normalization_momentum: float = 0.99,
) -> keras.Model:
    """Builds a TransUNet under the global dtype policy.

    Level i of `num_layers` has base_filters * 2**i channels at 1 / 2**i of the image size; the transformer works on the places of the deepest.

    Args:
      image_size: (height, width) in pixels, both multiples of 2**(num_layers - 1).
      image_channels: channels of the image.
      num_classes: 1 = one sigmoid logit; 2 or more = softmax over all classes.
      base_filters: channels of level 0; the reference's `filter_num` are those of 64 and four layers.
      base_kernels: kernel of level 0, a number or (height, width), at least 3; level i has max(3, base - 2 * i).
      num_layers: levels, 2 or more.
      embed_dim: channels of a token.
      num_heads: of the attention; with key_dim="share" a divisor of embed_dim.
      num_transformer: transformer blocks.
      num_mlp: units between the two layers of every perceptron.
      key_dim: channels of a head: its "share" of the token, or the whole "embedding".
      mlp_activation: of the perceptrons, any Keras name of ACTIVATIONS.
      dropout_rate: in the perceptrons; 0.1 in the paper, 0 in the reference.
      dilation: of level 0, a number or (height, width); level i has max(1, dilation - i).
      normalization: of the convolutions, before every activation: "none" (the reference's default), "batch", "sync_batch" or "group".
      activation: of the convolutions, any Keras name of ACTIVATIONS.
      input_normalize: the network divides pixels by 255 itself.
      group_count: groups of channels for normalization="group".
      normalization_momentum: share of the moving statistics that "batch" and "sync_batch" keep at each step.

    Returns:
      keras.Model: float32 [B, height, width, image_channels] of raw pixels 0..255 -> float32 logits [B, height, width, num_classes]. Its weights
      belong to this image size.

    Raises:
      UserError: a value out of range, or an image size that the depth cannot halve often enough.
    """
    owner = "transunet"
    check_head(image_channels, num_classes, owner=owner)
    numbers = {"base_filters": base_filters, "embed_dim": embed_dim, "num_heads": num_heads, "num_transformer": num_transformer, "num_mlp": num_mlp}
    for name, value in numbers.items():
        check_whole(value, 1, owner=owner, name=name)
    check_whole(num_layers, 2, owner=owner, name="num_layers")
    check_rate(dropout_rate, owner=owner)
    check_choice(key_dim, ("share", "embedding"), owner=owner, name="key_dim")
    check_choice(mlp_activation, ACTIVATIONS, owner=owner, name="mlp_activation")
    if key_dim == "share" and embed_dim % num_heads:
        raise UserError(f"{owner}.num_heads", expected=f"a divisor of embed_dim, {embed_dim}", found=repr(num_heads))
    check_image_size(image_size, 2 ** (num_layers - 1), because=f"2**(num_layers - 1), with {owner}.num_layers = {num_layers}")
    style = ConvStyle(owner=owner, activation=activation, normalization=normalization, group_count=group_count, momentum=normalization_momentum)
    kernels, dilations = level_kernels(base_kernels, num_layers, owner=owner), level_dilations(dilation, num_layers, owner=owner)

    def convolved(x, level: int, name: str, letters: str):
        for letter in letters:
            options = {"filters": base_filters * 2**level, "kernel": kernels[level], "dilation": dilations[level]}
            x = conv_unit(x, style, name=f"{name}_{letter}", **options)
        return x

    inputs, x = image_input(image_size, image_channels, scale=input_normalize)
    skips, deepest = [], num_layers - 1
    for level in range(num_layers):
        if level:
            x = keras.layers.MaxPooling2D(name=f"encoder_{level - 1}_pool")(x)
        x = convolved(x, level, f"encoder_{level}", "ab")
        skips.append(x)
    x = Conv2D(base_filters * 2**deepest, 1, use_bias=False, name="tokens_linear")(x)
    x = PositionEmbedding(name="positions")(Conv2D(embed_dim, 1, name="tokens")(x))
    _, height, width, _ = x.shape
    x = keras.layers.Reshape((height * width, embed_dim), name="tokens_flat")(x)
    for number in range(num_transformer):
        name, size = f"transformer_{number}", embed_dim // num_heads if key_dim == "share" else embed_dim
        y = keras.layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm_a")(x)
        y = keras.layers.MultiHeadAttention(num_heads, size, name=f"{name}_attention")(y, y)
        x = keras.layers.Add(name=f"{name}_add_a")([x, y])
        y = keras.layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm_b")(x)
        y = perceptron(y, num_mlp, activation=mlp_activation, dropout_rate=dropout_rate, name=f"{name}_mlp")
        x = keras.layers.Add(name=f"{name}_add_b")([x, y])
    x = keras.layers.Reshape((height, width, embed_dim), name="tokens_map")(x)
    x = Conv2D(base_filters * 2**deepest, 1, use_bias=False, name="tokens_back")(x)
    for level in reversed(range(deepest)):
        x = BilinearUpsampling(2, name=f"decoder_{level}_up")(x)
        x = convolved(x, level, f"decoder_{level}_raised", "a")
        x = keras.layers.Concatenate(name=f"decoder_{level}_concat")([x, skips[level]])
        x = convolved(x, level, f"decoder_{level}", "ab")
    return keras.Model(inputs, logits(x, num_classes), name=owner)
