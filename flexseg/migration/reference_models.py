"""Maps the reference system's models and their settings to the architectures of flexseg.

    model = reference_model("model.model", "TensorflowSwinUNet")
    model.settings["depth"]                     # "num_layers": swin_unet.num_layers
    model.fixed                                 # arguments without key in the reference that differ from the defaults here

A key that the reference's model ignored is dropped, so that the network is the same.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from flexseg.errors import UserError
from flexseg.migration.reference_reader import Reader


@dataclasses.dataclass(frozen=True)
class ReferenceModel:
    """A model of the reference system.

    Attributes:
      architecture: the architecture function of flexseg.
      settings: key of the [model] section -> argument of the function.
      fixed: arguments that have no key.
    """

    architecture: str
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_WIDTHS = {"base_filters": "base_filters", "num_layers": "num_layers"}
_UNET = {**_WIDTHS, "dropout_rate": "dropout_rate"}
_KERNELS = {"base_kernels": "base_kernels", "dilation": "dilation", "activation": "activation"}
_FLEX = {**_UNET, **_KERNELS, "normalization": "normalization", "input_normalize": "input_normalize"}
_B7 = {"efficientnet": "B7", "decoder": "transposed", "encoder_weights": "imagenet", "encoder_trainable_layers": 61}
_SWIN = {
    "filter_num_begin": "base_filters", "depth": "num_layers", "stack_num_down": "blocks_down", "stack_num_up": "blocks_up",
    "patch_size": "patch_size", "num_heads": "num_heads", "window_size": "window_sizes", "num_mlp": "num_mlp",
}  # fmt: skip
_TRANSUNET = {
    "filter_num": "base_filters", "embed_dim": "embed_dim", "num_mlp": "num_mlp", "num_heads": "num_heads", "num_transformer": "num_transformer",
    "batch_norm": "normalization", "activation": "activation", "mlp_activation": "mlp_activation",
}  # fmt: skip
# By name without "Tensorflow" and "Flex", in lower case.
_MODELS = {
    "unet": ReferenceModel("flex_unet", _FLEX, {"normalization": "none"}),
    "attentionunet": ReferenceModel("attention_unet", _UNET, {"input_normalize": False}),
    "multiresunet": ReferenceModel("multires_unet", _WIDTHS),
    "efficientunet": ReferenceModel("efficient_unet", {"efficientnet": "efficientnet"}, {"encoder_weights": "imagenet"}),
    "efficientnetb7unet": ReferenceModel("efficient_unet", {}, _B7),
    "unet3plus": ReferenceModel("unet3_plus", {"base_filters": "base_filters", "dropout_rate": "dropout_rate"}, {"deep_supervision": False}),
    "deeplabv3plus": ReferenceModel("deeplabv3_plus", {}, {"encoder_weights": "imagenet"}),
    "sharpunet": ReferenceModel("sharp_unet", {"filters": "base_filters", "base_ksize": "base_kernels", "dilation": "dilation"}),
    "swinunet": ReferenceModel("swin_unet", _SWIN),
    "transunet": ReferenceModel("transunet", _TRANSUNET, {"key_dim": "embedding", "normalization": "none"}),
    "u2net": ReferenceModel("u2net", _WIDTHS, {"normalization": "none", "deep_supervision": False}),
    "xceptionlikeunet": ReferenceModel("xception_unet", {**_WIDTHS, "dilation": "dilation"}),
    "basnet": ReferenceModel("basnet"),
}  # fmt: skip
# Keys of one or two models only.
OTHER_SETTINGS = sorted({key for model in _MODELS.values() for key in model.settings} - set(_FLEX))
_CHOICES = (
    "UNet (and FlexUNet, SlightlyFlexibleUNet), AttentionUNet, MultiResUNet, EfficientUNet, EfficientNetB7UNet, UNet3Plus, DeepLabV3Plus, "
    "SharpUNet, SwinUNet, TransUNet, U2Net, XceptionLikeUNet, BASNet, each with or without Tensorflow or TensorflowFlex before it"
)


def reference_model(key: str, name: Any) -> ReferenceModel:
    """The model for a name in a reference configuration.

    Raises:
      UserError: flexseg has no such model.
    """
    if name is None:
        raise UserError(key, expected="the name of a model", found="none")
    found = re.fullmatch(r"(?:tensorflow)?(?:slightlyflexible|flex)?(\w+)", str(name).lower())
    if found is None or found[1] not in _MODELS:
        raise UserError(key, expected=f"a model that flexseg has: {_CHOICES}", found=repr(name))
    return _MODELS[found[1]]


def bind_model(reader: Reader, key: str, value: Any) -> None:
    """Rule of `model.model`."""
    model = reference_model(key, value)
    reader.bind(key, "train", "build_model.architecture", f"@{model.architecture}")
    for name, fixed in model.fixed.items():
        if not any(target == name and reader.get(f"model.{own}") is not None for own, target in model.settings.items()):
            reader.bind(key, "train", f"{model.architecture}.{name}", fixed)


def bind_setting(reader: Reader, key: str, value: Any) -> None:
    """Rule of every key that describes the network."""
    own = key.partition(".")[2]
    model = reference_model("model.model", reader.get("model.model"))
    target = model.settings.get(own)
    if target is None:
        reader.drop(key, f"the reference's {reader.get('model.model')} does not look at it")
        return
    for name, changed in _changed(key, own, target, value).items():
        reader.bind(key, "train", f"{model.architecture}.{name}", changed)


def _changed(key: str, own: str, target: str, value: Any) -> dict[str, Any]:
    """{argument: value} of the architecture function."""
    if own in ("filters", "filter_num"):  # a list of widths, which double per level here
        if not value or list(value) != [value[0] * 2**level for level in range(len(value))]:
            raise UserError(key, expected="widths that double, such as [32, 64, 128, 256]", found=repr(value))
        return {"base_filters": value[0], "num_layers": len(value) + (own == "filters")}
    if own in ("normalization", "batch_norm"):
        return {target: "batch" if value else "none"}
    if own in ("base_kernels", "base_ksize", "dilation"):
        return {target: tuple(value) if isinstance(value, (list, tuple)) else (value, value)}
    if own == "patch_size":
        return {target: value[0] if isinstance(value, (list, tuple)) else value}
    if own in ("activation", "mlp_activation"):
        return {target: str(value).lower()}
    if own == "input_normalize":
        return {target: bool(value)}
    return {target: tuple(value) if isinstance(value, list) else value}
