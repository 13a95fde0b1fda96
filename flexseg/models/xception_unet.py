"""XceptionLikeUNet: separable convolutions down, transposed ones up, residual connections within and none across (keras.io, Chollet 2020).

    model = xception_unet(image_size=(512, 512), image_channels=3, num_classes=2, base_filters=16, num_layers=6)

The network of keras.io/examples/vision/oxford_pets_image_segmentation, of any depth, as the reference has it; see Chollet 2017, arXiv:1610.02357.
Mended here: the reference's trainer could not import it, its `diation` was misspelt, and its head a sigmoid for any number of classes. Biases before
a batch normalization, which takes them out again, are left out: the reference's parameter count is this one's plus theirs.
"""

from typing import Literal

import gin
import keras

from flexseg.models.layers.blocks import ConvStyle, check_whole, conv_unit, level_dilations, level_kernels
from flexseg.models.layers.convolutions import Conv2D, Conv2DTranspose, SeparableConv2D
from flexseg.models.layers.inputs_outputs import check_head, check_image_size, check_rate, image_input, logits


@gin.configurable("xception_unet")
def xception_unet(
    *,
    image_size: tuple[int, int],
    image_channels: int,
    num_classes: int,
    base_filters: int = 16,
    base_kernels: int | tuple[int, int] = (3, 3),
    num_layers: int = 4,
    dropout_rate: float = 0.0,
    dilation: int | tuple[int, int] = (1, 1),
    normalization: Literal["none", "batch", "sync_batch", "group"] = "batch",
    activation: str = "relu",
    input_normalize: bool = True,
    group_count: int = 8,
    normalization_momentum: float = 0.99,
) -> keras.Model:
    """Builds an XceptionLikeUNet under the global dtype policy.

    The entry halves the image; each of num_layers - 1 blocks halves it again, at base_filters * 2**i channels; num_layers blocks raise it again.

    Args:
      image_size: (height, width) in pixels, both multiples of 2**num_layers.
      image_channels: channels of the image.
      num_classes: 1 = one sigmoid logit; 2 or more = softmax over all classes.
      base_filters: of the entry.
      base_kernels: kernel of the entry, a number or (height, width), at least 3; level i has max(3, base - 2 * i).
      num_layers: the entry and the blocks that halve, 2 or more; 4 on keras.io.
      dropout_rate: behind every block; keras.io drops nothing.
      dilation: of the separable convolutions, a number or (height, width); level i, from 1, has max(1, dilation - i + 1).
      normalization: "none", "batch", "sync_batch" or "group", behind every convolution.
      activation: any Keras name of ACTIVATIONS.
      input_normalize: the network divides pixels by 255 itself.
      group_count: groups of channels for normalization="group".
      normalization_momentum: share of the moving statistics that "batch" and "sync_batch" keep at each step.

    Returns:
      keras.Model: float32 [B, height, width, image_channels] of raw pixels 0..255 -> float32 logits [B, height, width, num_classes].

    Raises:
      UserError: a value out of range, or an image size that the depth cannot halve often enough.
    """
    owner = "xception_unet"
    check_head(image_channels, num_classes, owner=owner)
    check_whole(base_filters, 1, owner=owner, name="base_filters")
    check_whole(num_layers, 2, owner=owner, name="num_layers")
    check_rate(dropout_rate, owner=owner)
    check_image_size(image_size, 2**num_layers, because=f"2**num_layers, with {owner}.num_layers = {num_layers}")
    style = ConvStyle(owner=owner, activation=activation, normalization=normalization, group_count=group_count, momentum=normalization_momentum)
    kernels, dilations = level_kernels(base_kernels, num_layers, owner=owner), level_dilations(dilation, num_layers, owner=owner)
    use_bias = normalization == "none"

    def twice(x, make, *, name: str):
        for letter in "ab":
            x = keras.layers.Activation(activation, name=f"{name}_act_{letter}")(x)
            x = style.normalize(make(f"{name}_conv_{letter}")(x), name=f"{name}_norm_{letter}")
        return x

    def ended(x, residual, *, name: str):
        x = keras.layers.Add(name=f"{name}_add")([x, residual])
        return keras.layers.Dropout(dropout_rate, name=f"{name}_dropout")(x) if dropout_rate else x

    inputs, x = image_input(image_size, image_channels, scale=input_normalize)
    x = previous = conv_unit(x, style, name="entry_a", filters=base_filters, kernel=kernels[0], strides=2)
    for level in range(1, num_layers):
        name, filters = f"encoder_{level}", base_filters * 2**level
        settings = {"padding": "same", "dilation_rate": dilations[level - 1], "use_bias": use_bias}
        x = twice(x, lambda conv, f=filters, k=kernels[level], s=settings: SeparableConv2D(f, k, **s, name=conv), name=name)
        x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name=f"{name}_pool")(x)
        x = previous = ended(x, Conv2D(filters, 1, strides=2, name=f"{name}_residual")(previous), name=name)
    for level in reversed(range(num_layers)):
        name, filters = f"decoder_{level}", base_filters * 2**level
        settings = {"padding": "same", "use_bias": use_bias}
        x = twice(x, lambda conv, f=filters, k=kernels[level], s=settings: Conv2DTranspose(f, k, **s, name=conv), name=name)
        x = keras.layers.UpSampling2D(2, name=f"{name}_up")(x)
        residual = Conv2D(filters, 1, name=f"{name}_residual")(keras.layers.UpSampling2D(2, name=f"{name}_residual_up")(previous))
        x = previous = ended(x, residual, name=name)
    return keras.Model(inputs, logits(x, num_classes, kernel=3), name=owner)
