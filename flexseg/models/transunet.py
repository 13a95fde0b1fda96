"""TransUNet: a U-Net with a vision transformer at its bottom (Chen et al. 2021, arXiv:2102.04306).

    model = transunet(image_size=(512, 512), image_channels=3, num_classes=2, base_filters=64, num_layers=4, num_transformer=12)

The reference's network, which it has from keras-unet-collection, with a convolutional encoder of its own. Fixed here: it did not run under Keras 3;
every head was as wide as the whole token (key_dim="embedding" gives that, 407 million weights by its defaults, where the paper's is its share); its
perceptrons ended in an activation, so that a token could hardly be lowered; one of its settings was read under another one's name. Like it, and
unlike the authors' code, it normalizes nothing behind the last transformer block.
"""

from typing import Literal

import gin
import keras

from flexseg.errors import UserError
from flexseg.models.layers.architecture import architecture
from flexseg.models.layers.arguments import Count, Rate, check_halvings
from flexseg.models.layers.attention import PositionEmbedding, transformer_block
from flexseg.models.layers.blocks import conv_unit
from flexseg.models.layers.conv_style import ActivationName, ConvStyle
from flexseg.models.layers.convolutions import Conv2D
from flexseg.models.layers.inputs_outputs import logits
from flexseg.models.layers.levels import Levels
from flexseg.models.layers.task import Task
from flexseg.models.layers.upsampling import BilinearUpsampling


@gin.configurable("transunet")
@architecture
def transunet(
    *,
    task: Task,
    levels: Levels = Levels(base_filters=64, num_layers=4),
    embed_dim: Count = 768,
    num_heads: Count = 12,
    num_transformer: Count = 12,
    num_mlp: Count = 3072,
    key_dim: Literal["share", "embedding"] = "share",
    mlp_activation: ActivationName = "gelu",
    dropout_rate: Rate = 0.0,
    style: ConvStyle = ConvStyle(normalization="batch"),
) -> keras.Model:
    """Builds a TransUNet under the global dtype policy: raw pixels [B, H, W, C] to logits [B, H, W, num_classes].

    The transformer works on the positions of the deepest level. Height and width are multiples of 2**(num_layers - 1); the weights belong to this
    image size. The reference's `filter_num` are those of base_filters=64 and four layers; its default is normalization="none".

    Args:
      embed_dim: channels of a token.
      num_heads: heads of the attention; with key_dim="share" a divisor of embed_dim.
      num_transformer: transformer blocks.
      num_mlp: units between the two layers of every perceptron.
      key_dim: channels of a head: its "share" of the token, or the whole "embedding".
      mlp_activation: activation of the perceptrons, any Keras name of ACTIVATIONS.
      dropout_rate: dropout in the perceptrons; 0.1 in the paper, 0 in the reference.
    """
    if key_dim == "share" and embed_dim % num_heads:
        raise UserError("transunet.num_heads", expected=f"a divisor of embed_dim, {embed_dim}", found=repr(num_heads))
    check_halvings(task.image_size, levels.num_layers, owner="transunet")

    def convolved(x: keras.KerasTensor, level: int, name: str, letters: str) -> keras.KerasTensor:
        for letter in letters:
            x = conv_unit(x, style, name=f"{name}_{letter}", **levels.conv(level))
        return x

    inputs, x = task.inputs()
    skips, deepest = [], levels.num_layers - 1
    for level in range(levels.num_layers):
        if level:
            x = keras.layers.MaxPooling2D(name=f"encoder_{level - 1}_pool")(x)
        x = convolved(x, level, f"encoder_{level}", "ab")
        skips.append(x)
    x = Conv2D(levels.filters[deepest], 1, use_bias=False, name="tokens_linear")(x)
    x = PositionEmbedding(name="positions")(Conv2D(embed_dim, 1, name="tokens")(x))
    _, height, width, _ = x.shape
    size = embed_dim // num_heads if key_dim == "share" else embed_dim
    x = keras.layers.Reshape((height * width, embed_dim), name="tokens_flat")(x)
    for number in range(num_transformer):
        name = f"transformer_{number}"
        attention = keras.layers.MultiHeadAttention(num_heads, size, name=f"{name}_attention")
        x = transformer_block(
            x, lambda y, attend=attention: attend(y, y), num_mlp, activation=mlp_activation, epsilon=1e-6, dropout_rate=dropout_rate, name=name
        )
    x = keras.layers.Reshape((height, width, embed_dim), name="tokens_map")(x)
    x = Conv2D(levels.filters[deepest], 1, use_bias=False, name="tokens_back")(x)
    for level in reversed(range(deepest)):
        x = BilinearUpsampling(2, name=f"decoder_{level}_up")(x)
        x = convolved(x, level, f"decoder_{level}_raised", "a")
        x = keras.layers.Concatenate(name=f"decoder_{level}_concat")([x, skips[level]])
        x = convolved(x, level, f"decoder_{level}", "ab")
    return keras.Model(inputs, logits(x, task.num_classes), name="transunet")
