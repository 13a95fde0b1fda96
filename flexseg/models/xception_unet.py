"""XceptionLikeUNet: separable convolutions down, transposed ones up, residual connections within and none across (keras.io, Chollet 2020).

    model = xception_unet(image_size=(512, 512), image_channels=3, num_classes=2, base_filters=16, num_layers=6)

The network of keras.io/examples/vision/oxford_pets_image_segmentation, of any depth, as the reference has it; see Chollet 2017, arXiv:1610.02357.
Fixed here: the reference's trainer could not import it, its `diation` was misspelt, and its head a sigmoid for any number of classes. Biases before
a batch normalization, which takes them out again, are left out: the reference's parameter count is this one's plus theirs.
"""

from collections.abc import Callable

import gin
import keras

from flexseg.models.layers.architecture import architecture
from flexseg.models.layers.arguments import Rate, check_image_size
from flexseg.models.layers.blocks import conv_unit
from flexseg.models.layers.conv_style import ConvStyle
from flexseg.models.layers.convolutions import Conv2D, Conv2DTranspose, SeparableConv2D
from flexseg.models.layers.inputs_outputs import logits
from flexseg.models.layers.levels import Levels
from flexseg.models.layers.task import Task


@gin.configurable("xception_unet")
@architecture
def xception_unet(
    *,
    task: Task,
    levels: Levels = Levels(base_filters=16, num_layers=4),
    dropout_rate: Rate = 0.0,
    style: ConvStyle = ConvStyle(normalization="batch"),
) -> keras.Model:
    """Builds an XceptionLikeUNet under the global dtype policy: raw pixels [B, H, W, C] to logits [B, H, W, num_classes].

    The entry halves the image; each of num_layers - 1 blocks halves it again; num_layers blocks upsample it again. Level i lies at 1 / 2**(i + 1) of
    the image size. Height and width are multiples of 2**num_layers.

    Args:
      num_layers: the entry and the blocks that halve, 2 or more; 4 on keras.io.
      dropout_rate: dropout behind every block; keras.io drops nothing.
      dilation: dilation of the separable convolutions, a number or (height, width). Level i, from 1, has max(1, dilation - i + 1).
    """
    num_layers, kernels = levels.num_layers, levels.kernels
    check_image_size(task.image_size, 2**num_layers, because=f"2**num_layers, with xception_unet.num_layers = {num_layers}")

    def twice(x: keras.KerasTensor, make: Callable, *, name: str) -> keras.KerasTensor:
        for letter in "ab":
            x = keras.layers.Activation(style.activation, name=f"{name}_act_{letter}")(x)
            x = style.normalize(make(f"{name}_conv_{letter}")(x), name=f"{name}_norm_{letter}")
        return x

    def ended(x: keras.KerasTensor, residual: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
        x = keras.layers.Add(name=f"{name}_add")([x, residual])
        return keras.layers.Dropout(dropout_rate, name=f"{name}_dropout")(x) if dropout_rate else x

    inputs, x = task.inputs()
    x = previous = conv_unit(x, style, name="entry_a", filters=levels.base_filters, kernel=kernels[0], strides=2)
    for level in range(1, num_layers):
        name, filters = f"encoder_{level}", levels.filters[level]
        settings = {"padding": "same", "dilation_rate": levels.dilations[level - 1], "use_bias": style.use_bias}
        x = twice(x, lambda conv, f=filters, k=kernels[level], s=settings: SeparableConv2D(f, k, **s, name=conv), name=name)
        x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name=f"{name}_pool")(x)
        x = previous = ended(x, Conv2D(filters, 1, strides=2, name=f"{name}_residual")(previous), name=name)
    for level in reversed(range(num_layers)):
        name, filters = f"decoder_{level}", levels.filters[level]
        settings = {"padding": "same", "use_bias": style.use_bias}
        x = twice(x, lambda conv, f=filters, k=kernels[level], s=settings: Conv2DTranspose(f, k, **s, name=conv), name=name)
        x = keras.layers.UpSampling2D(2, name=f"{name}_up")(x)
        residual = Conv2D(filters, 1, name=f"{name}_residual")(keras.layers.UpSampling2D(2, name=f"{name}_residual_up")(previous))
        x = previous = ended(x, residual, name=name)
    return keras.Model(inputs, logits(x, task.num_classes, kernel=3), name="xception_unet")
