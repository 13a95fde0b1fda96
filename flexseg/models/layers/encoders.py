"""Encoder: a network of keras.applications without its head gives feature maps at 1/2 to 1/32 of the image, with learnt weights or random ones.

    encoder = Encoder(owner="encoder_unet", name="ResNet50", weights="imagenet")
    maps = encoder(inputs, image_size)              # {2: [B, H/2, W/2, 64], 4: ..., 8: ..., 16: ..., 32: [B, H/32, W/32, 2048]}

The layers are Keras's, so that its published files fit. Convolutions and Dense (convolutions.py) and batch normalization (normalization.py) keep
their weights and are computed otherwise here. Building draws random weights and never looks at `weights`; `pretrained.py` reads them when a training
begins.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import keras
import numpy as np

from flexseg.errors import UserError
from flexseg.models.abstract_build import abstract_build
from flexseg.models.layers.arguments import Settings, check_choice, check_image_size, check_rate, check_whole
from flexseg.models.layers.convolutions import Conv2D, Dense
from flexseg.models.layers.inputs_outputs import full_precision
from flexseg.models.layers.normalization import BatchNormalization

# What the published weights were learnt on: (factor, offset) of raw RGB pixels, from each family's preprocess_input and own first layers.
_DEVIATIONS = np.array([0.229, 0.224, 0.225])
_PIXELS = {
    "imagenet": (1 / (255 * _DEVIATIONS), -np.array([0.485, 0.456, 0.406]) / _DEVIATIONS),
    "unit": (np.full(3, 1 / 127.5), np.full(3, -1.0)),
    "unit_128": (np.full(3, 1 / 128), np.full(3, -1.0)),
    "bgr": (np.ones(3), -np.array([103.939, 116.779, 123.68])),  # channels turned round: Caffe's order
}
ENCODERS = {
    **{f"ResNet{depth}": "bgr" for depth in (50, 101)},
    **{f"EfficientNetB{size}": "imagenet" for size in range(8)},
    **{f"EfficientNetV2B{size}": "imagenet" for size in range(4)},
    **{f"EfficientNetV2{size}": "unit_128" for size in "SML"},
    **{f"ConvNeXt{size}": "imagenet" for size in ("Tiny", "Small", "Base", "Large", "XLarge")},
    **{f"MobileNetV3{size}": "unit" for size in ("Small", "Large")},
    **{f"DenseNet{depth}": "imagenet" for depth in (121, 169, 201)},
    "Xception": "unit",
}
NORMALIZATIONS = ("batch", "sync_batch", "frozen")
ATROUS = ("ResNet50", "ResNet101")  # whose last stage can be dilated in place of its stride
STRIDE = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder(Settings):
    """The encoder of a network, its normalization, and how much of it is trained.

    `@architecture` gives a network the fields of ARGUMENTS as arguments of its own.

    Attributes:
      owner: the gin name of the network. Errors name `owner.encoder…`.
      name: the network of keras.applications, a key of ENCODERS.
      weights: weights that a training starts from: None for random ones, "imagenet" for those that Keras publishes, or the path of a file of
        their layout.
      normalization: batch normalizations of the encoder: "batch", "sync_batch" (over all replicas) or "frozen", which normalizes by the moving
        statistics of the learnt weights and keeps them (for batches of a few images). ConvNeXts have none, and take "batch" alone.
      momentum: share of the moving statistics kept at each step.
      trainable_layers: how many of the last layers of the keras.applications network are trained, as its `layers` lists them; None for all. The
        others keep weights and moving statistics.
      dropout_rate: share of residual branches that the encoder's deepest block drops (stochastic depth); None for the published one.
      atrous: no stride in the last stage, and its 3x3 kernels dilated by 2 (Chen et al. 2018, arXiv:1802.02611): its map has 1/16.
      strides: strides of the maps wanted; None for all. Nothing behind the last of them is computed, or has weights.
      taps: {stride: name of the layer whose output is the map} instead of the last map of each size.
      binding: what the owner calls `name`.

    Raises:
      UserError: a value that the encoder does not have.
    """

    ARGUMENTS: ClassVar = {
        "encoder": "name",
        "encoder_weights": "weights",
        "encoder_normalization": "normalization",
        "encoder_trainable_layers": "trainable_layers",
        "encoder_dropout_rate": "dropout_rate",
        "normalization_momentum": "momentum",
    }

    owner: str = "Encoder"
    name: str
    weights: str | None = None
    normalization: Literal["batch", "sync_batch", "frozen"] = "batch"
    momentum: float = 0.99
    trainable_layers: int | None = None
    dropout_rate: float | None = None
    atrous: bool = False
    strides: tuple[int, ...] | None = None
    taps: Mapping[int, str] | None = None
    binding: str = "encoder"

    def __post_init__(self) -> None:
        check_choice(self.name, tuple(ENCODERS), owner=self.owner, name="encoder")
        check_choice(self.normalization, NORMALIZATIONS, owner=self.owner, name="encoder_normalization")
        if self.name.startswith("ConvNeXt") and self.normalization != "batch":
            expected, found = f"'batch' with {self.name}, which normalizes by layer and not by batch", repr(self.normalization)
            raise UserError(f"{self.owner}.encoder_normalization", expected=expected, found=found)
        if self.weights is not None and not (isinstance(self.weights, str) and self.weights):
            raise UserError(f"{self.owner}.encoder_weights", expected="None, 'imagenet' or the path of a file", found=repr(self.weights))
        if self.trainable_layers is not None:
            check_whole(self.trainable_layers, 0, owner=self.owner, name="encoder_trainable_layers")
        for setting, value in (("normalization", self.normalization), ("trainable_layers", self.trainable_layers)):
            if self.weights is None and value not in ("batch", "sync_batch", None):
                raise UserError(
                    f"{self.owner}.encoder_{setting}",
                    expected="encoder_weights beside it: random ones are worth nothing before they are trained",
                    found=repr(value),
                    cure=f"--gin_param=\"{self.owner}.encoder_weights='imagenet'\"",
                )
        if self.dropout_rate is not None:
            check_rate(self.dropout_rate, owner=self.owner, name="encoder_dropout_rate")
            if not self.name.startswith("EfficientNet"):
                found = repr(self.dropout_rate)
                raise UserError(f"{self.owner}.encoder_dropout_rate", expected=f"None for {self.name}, which drops nothing", found=found)
        if self.atrous and self.name not in ATROUS:
            raise UserError(f"{self.owner}.atrous", expected=f"False, or an encoder of {', '.join(ATROUS)}", found=f"True with {self.name}")

    def __call__(self, pixels: keras.KerasTensor, image_size: tuple[int, int]) -> dict[int, keras.KerasTensor]:
        """Raw pixels [B, H, W, 1 or 3], 0 to 255, to {stride: map [B, H/stride, W/stride, channels]}, by rising stride."""
        check_image_size(image_size, STRIDE, because=f"the strides of {self.name}, {self.owner}.{self.binding}")
        if self.name == "Xception" and min(image_size) < 96:
            raise UserError("input.image_size", expected="96 or more a side for Xception", found=f"{image_size[0]} x {image_size[1]}")
        x = self._normalized(pixels)
        with abstract_build():  # the clone draws the weights
            application = network(self.name, image_size)
            core, strides = headless(application, self)
        with keras.name_scope("encoder"):
            clone = keras.models.clone_model(core, clone_function=self._copied, recursive=True)
        if self.trainable_layers is not None and self.trainable_layers > len(application.layers):
            expected = f"at most the {len(application.layers)} layers of {self.name}, or None for all"
            raise UserError(f"{self.owner}.encoder_trainable_layers", expected=expected, found=str(self.trainable_layers))
        self._freeze(clone, application)
        clone.source = self
        return dict(zip(strides, keras.tree.flatten(clone(x)), strict=True))

    def _normalized(self, pixels: keras.KerasTensor) -> keras.KerasTensor:
        channels = pixels.shape[-1]
        if channels not in (1, 3):
            raise UserError(
                f"{self.owner}.{self.binding}",
                expected="images of 1 or 3 channels, as keras.applications has",
                found=f"{channels} channels",
                cure='--gin_param="build_model.architecture=@flex_unet"',
            )
        x = keras.layers.Concatenate(dtype=full_precision(), name="repeat_channel")([pixels] * 3) if channels == 1 else pixels
        kind = ENCODERS[self.name]
        factor, offset = _PIXELS[kind]
        x = keras.ops.flip(x, axis=-1) if kind == "bgr" else x
        return keras.layers.Rescaling(factor, offset, dtype=full_precision(), name="normalize_pixels")(x)

    def _freeze(self, clone: keras.Model, application: keras.Model) -> None:
        count = len(application.layers)
        names = {layer.name for layer in application.layers[count - (count if self.trainable_layers is None else self.trainable_layers) :]}
        for layer in clone.layers:
            frozen = self.normalization == "frozen" and isinstance(layer, BatchNormalization)
            layer.trainable = layer.name in names and not frozen
        if self.trainable_layers and not clone.trainable_variables:
            used = {layer.name for layer in clone.layers if layer.weights}
            least = count - max(index for index, layer in enumerate(application.layers) if layer.name in used)
            expected = f"0 for none, or {least} or more: the last {least - 1} of {self.name} are not used by this network or have no weights"
            raise UserError(f"{self.owner}.encoder_trainable_layers", expected=expected, found=str(self.trainable_layers))

    def _copied(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        config, kind = layer.get_config(), type(layer)
        if kind is keras.layers.BatchNormalization:
            config |= {"momentum": self.momentum, "synchronized": self.normalization == "sync_batch"}
            return BatchNormalization.from_config(config)
        if kind is keras.layers.Conv2D:
            if config["padding"] == "valid" and self.name == "Xception" and layer.kernel_size != (1, 1):
                config["padding"] = "same"  # its first two leave the border out, and no map would have half the size
            if self.atrous and layer.name.startswith("conv5_"):
                config |= {"strides": (1, 1), "dilation_rate": (2, 2) if layer.kernel_size == (3, 3) else (1, 1)}
            return Conv2D.from_config(config)
        if kind is keras.layers.Dense:
            return Dense.from_config(config)
        if kind is keras.layers.Dropout and self.dropout_rate is not None:
            config["rate"] *= self.dropout_rate / 0.2  # the published rate, of which each block has its share
        return kind.from_config(config)


def network(name: str, image_size: tuple[int, int], *, weights: str | None = None) -> keras.Model:
    """The network of keras.applications without its head, for pixels that are normalised already (EfficientNet's own layers for that are cut off)."""
    own = {"include_preprocessing": False} if name.startswith(("EfficientNetV2", "ConvNeXt", "MobileNetV3")) and weights is None else {}
    return getattr(keras.applications, name)(weights=weights, include_top=False, input_shape=(*image_size, 3), **own)


def headless(application: keras.Model, encoder: Encoder) -> tuple[keras.Model, list[int]]:
    """The part from normalised pixels to the maps, and the maps' strides, rising."""
    entry = application.get_layer("stem_conv_pad").input if encoder.name.startswith("EfficientNetB") else application.input
    if encoder.taps is not None:
        strides = sorted(encoder.taps)
        return keras.Model(entry, [application.get_layer(encoder.taps[stride]).output for stride in strides], name="encoder"), strides
    last = {}
    for operation in application.operations:
        shape: tuple[int, ...] = getattr(operation.output, "shape", ())
        if len(shape) == 4 and not isinstance(operation, keras.layers.ZeroPadding2D):
            last[2 ** round(math.log2(entry.shape[1] / shape[1]))] = operation.output  # rounded: Xception's maps lack their border there
    last[16 if encoder.atrous else STRIDE] = application.output
    strides = [stride for stride in (2, 4, 8, 16, STRIDE) if stride in (encoder.strides or last) and not (encoder.atrous and stride == STRIDE)]
    return keras.Model(entry, [last[stride] for stride in strides], name="encoder"), strides
