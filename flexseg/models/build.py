"""Builds the configured network and checks the contract of all networks.

    build_model.architecture = @flex_unet                                     # in a gin file
    model = build_model(image_size=(512, 512), channels=3, classes=2)         # what the dataset has

A network is a function `name(*, image_size, image_channels, num_classes, ...) -> keras.Model` that uses Keras's functional API:
raw pixels in, logits out, deep supervision as a list with the main logits first. What the model computes is not looked at.
"""

import inspect
from collections.abc import Callable

import gin
import keras

from flexseg.errors import UserError
from flexseg.models.architectures import ARCHITECTURES
from flexseg.models.layers.inputs_outputs import full_precision
from flexseg.user_modules import explain

WHERE = "build_model.architecture"
CONTRACT = "a function name(*, image_size, image_channels, num_classes, ...) -> keras.Model"


@gin.configurable("build_model")
def build_model(
    *,
    image_size: tuple[int, int],
    channels: int,
    classes: int,
    architecture: Callable[..., keras.Model] = ARCHITECTURES["flex_unet"],
    num_classes: int | None = None,
    image_channels: int | None = None,
) -> keras.Model:
    """Calls `architecture` and checks what came back.

    Args:
      image_size: (height, width) in pixels.
      channels: channels of the dataset's images.
      classes: classes of the dataset's LabelMap, 2 or more.
      architecture: a builder function; under gin a reference such as `@flex_unet`, without brackets.
      num_classes: the head; default `classes`, a softmax over all of them. 1 is the sigmoid form of two classes.
      image_channels: default `channels`; bound, it must agree.

    Returns:
      keras.Model: float32 [B, H, W, image_channels] -> float32 logits [B, H, W, num_classes], or a list of such with [B, h, w, num_classes]
      behind the first one (float64 under the float64 policy).

    Raises:
      UserError: `architecture` is no such function, or its model breaks the contract; the message names the architecture.
    """
    num_classes = classes if num_classes is None else num_classes
    if num_classes != classes and (num_classes, classes) != (1, 2):
        sigmoid = ", or 1" if classes == 2 else ""
        raise UserError("build_model.num_classes", expected=f"{classes}{sigmoid}, as the dataset's LabelMap has", found=str(num_classes))
    if image_channels not in (None, channels):
        raise UserError("build_model.image_channels", expected=f"{channels}, as the dataset's images have", found=str(image_channels))
    image_channels = channels
    settings = {"image_size": image_size, "image_channels": image_channels, "num_classes": num_classes}
    if not callable(architecture):
        raise UserError(WHERE, expected=CONTRACT, found=repr(architecture), cure='for example --gin_param="build_model.architecture=@flex_unet"')
    name = getattr(architecture, "__name__", repr(architecture))
    try:
        inspect.signature(architecture).bind_partial(**settings)  # partial: gin may supply the rest
    except TypeError as error:
        raise UserError(WHERE, expected=CONTRACT, found=f"{name}, which refuses: {error}") from error
    try:
        model = architecture(**settings)
    except UserError:
        raise
    except Exception as error:
        function = inspect.unwrap(architecture)
        if (getattr(function, "__module__", None) or "").startswith("flexseg."):
            raise
        raise UserError(f"{WHERE} = @{name}", expected="a network", found=explain(error, function)) from error

    def require(holds: bool, expected: str, found: object) -> None:
        if not holds:
            raise UserError(f"{WHERE} = @{name}", expected=expected, found=str(found))

    functional = isinstance(model, keras.Model) and bool(getattr(model, "inputs", None))
    require(functional, "a keras.Model made with the functional API", type(model).__name__)
    wanted = (None, *image_size, image_channels)
    require([i.shape for i in model.inputs] == [wanted], f"one input of shape {wanted}", [i.shape for i in model.inputs])

    outputs = model.output  # as the caller of the model sees it
    require(isinstance(outputs, (list, tuple, keras.KerasTensor)), "one output, or a list with the main logits first", type(outputs).__name__)
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    full = full_precision()
    main = (None, *image_size, num_classes)
    require(outputs[0].shape == main, f"main logits of shape {main}", outputs[0].shape)
    for output in outputs:
        require(len(output.shape) == 4 and output.shape[-1] == num_classes, f"every output of shape [B, h, w, {num_classes}]", output.shape)
        require(keras.backend.standardize_dtype(output.dtype) == full, f'{full} logits (give the last layer dtype="{full}")', output.dtype)
    for layer in model.layers:
        probability = _probability(layer)
        ends = probability and any(o is output for o in keras.tree.flatten(layer.output) for output in outputs)
        require(not ends, "logits: loss and prediction apply sigmoid or softmax themselves", f"the last layer {layer.name!r} with {probability}")
    return model


def _probability(layer: keras.layers.Layer) -> str | None:
    """ "softmax" or "sigmoid" where the layer ends in one."""
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    name = getattr(getattr(layer, "activation", None), "__name__", None)
    return name if name in ("softmax", "sigmoid") else None
