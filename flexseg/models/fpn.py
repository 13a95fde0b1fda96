"""FPN: a feature pyramid whose levels are summed up for segmentation (Kirillov et al. 2019, Panoptic Feature Pyramid Networks, arXiv:1901.02446).

    model = fpn(image_size=(512, 512), image_channels=3, num_classes=2, encoder="ResNet50", encoder_weights="imagenet")

The paper's semantic branch (its figure 3) on an encoder of keras.applications: each level of the pyramid is raised to 1/4 of the image by
convolutions with bilinear raising between them, all are added, and the logits raised by 4. As in segmentation_models_pytorch, and unlike in the
paper, the levels go into the branch without a convolution of their own before it (Lin et al. 2017, arXiv:1612.03144, section 3).
"""

from typing import Literal

import gin
import keras

from flexseg.models.layers.blocks import ConvStyle, check_whole, conv_unit
from flexseg.models.layers.convolutions import Conv2D
from flexseg.models.layers.encoders import Encoder
from flexseg.models.layers.inputs_outputs import check_head, check_rate, image_input, logits
from flexseg.models.layers.upsampling import BilinearUpsampling


@gin.configurable("fpn")
def fpn(
    *,
    image_size: tuple[int, int],
    image_channels: int,
    num_classes: int,
    encoder: str = "ResNet50",
    encoder_weights: str | None = None,
    encoder_normalization: Literal["batch", "sync_batch", "frozen"] = "batch",
    encoder_trainable_layers: int | None = None,
    encoder_dropout_rate: float | None = None,
    pyramid_filters: int = 256,
    base_filters: int = 128,
    dropout_rate: float = 0.0,
    normalization: Literal["none", "batch", "sync_batch", "group"] = "group",
    activation: str = "relu",
    group_count: int = 32,
    normalization_momentum: float = 0.99,
) -> keras.Model:
    """Builds an FPN on an encoder under the global dtype policy.

    Args:
      image_size: (height, width) in pixels, both multiples of 32.
      image_channels: 3, or 1, which is repeated.
      num_classes: 1 = one sigmoid logit; 2 or more = softmax over all classes.
      encoder, encoder_weights, encoder_normalization, encoder_trainable_layers, encoder_dropout_rate: see `flexseg.models.layers.encoders.Encoder`.
      pyramid_filters: channels of the pyramid.
      base_filters: channels of the segmentation branch.
      dropout_rate: before the logits.
      normalization: of the segmentation branch, "none", "batch", "sync_batch" or "group" (the paper), before every activation.
      activation: of the segmentation branch, any Keras name of ACTIVATIONS.
      group_count: groups of channels for normalization="group".
      normalization_momentum: share of the moving statistics that batch normalizations keep at each step, in the encoder too.

    Returns:
      keras.Model: float32 [B, height, width, image_channels] of raw RGB pixels 0..255 -> float32 logits [B, height, width, num_classes].

    Raises:
      UserError: a value out of range, or an image size that the encoder cannot halve five times.
    """
    owner = "fpn"
    check_head(image_channels, num_classes, owner=owner)
    check_whole(pyramid_filters, 1, owner=owner, name="pyramid_filters")
    check_whole(base_filters, 1, owner=owner, name="base_filters")
    check_rate(dropout_rate, owner=owner)
    style = ConvStyle(owner=owner, activation=activation, normalization=normalization, group_count=group_count, momentum=normalization_momentum)
    inputs, pixels = image_input(image_size, image_channels, scale=False)
    maps = Encoder(
        owner=owner,
        name=encoder,
        weights=encoder_weights,
        normalization=encoder_normalization,
        momentum=normalization_momentum,
        trainable_layers=encoder_trainable_layers,
        dropout_rate=encoder_dropout_rate,
    )(pixels, image_size)
    x, branches = None, []
    for level in (5, 4, 3, 2):  # at 1 / 2**level of the image
        name = f"pyramid_{level}"
        side = Conv2D(pyramid_filters, 1, name=f"{name}_conv")(maps[2**level])
        x = side if x is None else keras.layers.Add(name=f"{name}_add")([keras.layers.UpSampling2D(2, name=f"{name}_up")(x), side])
        branch = x
        for step in range(max(1, level - 2)):
            branch = conv_unit(branch, style, name=f"branch_{level}_{'abc'[step]}", filters=base_filters)
            branch = BilinearUpsampling(2, name=f"branch_{level}_up_{'abc'[step]}")(branch) if level > 2 else branch
        branches.append(branch)
    x = keras.layers.Add(name="branches_add")(branches)
    x = keras.layers.Dropout(dropout_rate, name="branches_dropout")(x) if dropout_rate else x
    return keras.Model(inputs, logits(x, num_classes, upsample_factor=4), name=owner)
