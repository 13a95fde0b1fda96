"""What the convolutional architectures share: convolution + normalization + activation, and kernels and dilations per level.

    style = ConvStyle(owner="my_net", activation="mish", normalization="group")
    kernels = level_kernels((9, 9), 5, owner="my_net")        # [(9, 9), (7, 7), (5, 5), (3, 3), (3, 3)]
    x = conv_block(x, style, name="encoder_0", filters=16, kernel=kernels[0], dropout_rate=0.04, residual=True)

Weights start as in the reference: `he_normal` for the convolutions. Every layer has a name that tells its place in the network,
so a summary, a checkpoint and TensorBoard can be read. Nothing here fixes a precision: layers follow the global dtype policy.
"""

import dataclasses
from typing import Literal

import keras

from flexseg.errors import UserError, choose, suggest
from flexseg.models.layers.convolutions import Conv2D
from flexseg.models.layers.gradient_checkpointing import recomputed
from flexseg.models.layers.normalization import BatchNormalization

NORMALIZATIONS = ("none", "batch", "sync_batch", "group")
POSITIONS = ("after_activation", "before_activation")
# Keras's activations that act on each value alone; the others mix or drop channels, or need arguments.
ACTIVATIONS = tuple(
    name
    for name in dir(keras.activations)
    if not name.startswith("_") and name not in ("get", "serialize", "deserialize", "glu", "softmax", "log_softmax", "sparsemax", "threshold")
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvStyle:
    """How every convolution of a network is followed up.

    Attributes:
      owner: the builder's gin name; errors name `owner.field`.
      activation: one of ACTIVATIONS (the names `keras.activations.get` knows); "mish" is x * tanh(softplus(x)).
      normalization: "none", "batch", "sync_batch" (statistics over all replicas) or "group".
      normalization_position: "before_activation", where the convolution has no bias, because the normalization's own shift replaces it (and
        Adam would turn its rounding noise into steps), or "after_activation" (the reference's FlexUNet).
      group_count: groups of channels for "group"; must divide the number of channels of every convolution.
      momentum: what the moving statistics of "batch" and "sync_batch" keep at each step; 0.99 is Keras's default.
      gradient_checkpointing: computes the activations of each block again in the backward pass instead of keeping them (see recompute.py).

    Raises:
      UserError: a name that does not exist, or a group_count that is not a positive whole number.
    """

    owner: str
    activation: str = "relu"
    normalization: Literal["none", "batch", "sync_batch", "group"] = "none"
    normalization_position: Literal["after_activation", "before_activation"] = "before_activation"
    group_count: int = 8
    momentum: float = 0.99
    gradient_checkpointing: bool = False

    def __post_init__(self):
        check_choice(self.normalization, NORMALIZATIONS, owner=self.owner, name="normalization")
        check_choice(self.normalization_position, POSITIONS, owner=self.owner, name="normalization_position")
        check_whole(self.group_count, 1, owner=self.owner, name="group_count")
        if not 0 <= self.momentum < 1:
            raise UserError(f"{self.owner}.normalization_momentum", expected="a share from 0 to below 1", found=repr(self.momentum))
        if self.gradient_checkpointing and self.normalization == "sync_batch":
            raise UserError(
                f"{self.owner}.gradient_checkpointing",
                expected="False with sync_batch normalization, whose exchange between replicas cannot be computed twice",
                found="True",
                cure=f"--gin_param=\"{self.owner}.normalization='group'\"",
            )
        if self.activation not in ACTIVATIONS:
            raise UserError(
                f"{self.owner}.activation",
                expected="the name of a Keras activation that acts on each value alone, such as 'relu' or 'mish'",
                found=repr(self.activation),
                cure=choose(str(self.activation), ACTIVATIONS),
            )

    def normalize(self, x, *, name: str):
        """One normalization layer on [B, H, W, C]; x itself for "none"."""
        if self.normalization == "none":
            return x
        if self.normalization == "group":
            if x.shape[-1] % self.group_count:
                raise UserError(
                    f"{self.owner}.group_count",
                    expected=f"a divisor of the {x.shape[-1]} channels of {name}",
                    found=str(self.group_count),
                    cure=f"choose one of {', '.join(str(g) for g in range(1, x.shape[-1] + 1) if x.shape[-1] % g == 0)}.",
                )
            return keras.layers.GroupNormalization(self.group_count, name=name)(x)
        if self.normalization == "sync_batch":
            return keras.layers.BatchNormalization(momentum=self.momentum, synchronized=True, name=name)(x)
        return BatchNormalization(momentum=self.momentum, name=name)(x)


def conv_unit(x, style: ConvStyle, *, name: str, filters: int, kernel=(3, 3), dilation=(1, 1), strides: int = 1, dropout_rate=0.0, shortcut=None):
    """Convolution ("same", he_normal) [→ dropout] [→ normalization] [+ shortcut] → activation [→ normalization].

    Args:
      x: [B, H, W, any]. style: see ConvStyle. filters: channels of the result.
      name: "{place}_{letter}", such as "encoder_0_a"; the layers become "encoder_0_conv_a", "encoder_0_norm_a", "encoder_0_act_a".
      shortcut: None, or [B, H, W, filters] that is added directly before the activation.

    Returns: [B, H / strides, W / strides, filters].
    """
    place, letter = name.rsplit("_", 1)
    normalize_first = style.normalization != "none" and style.normalization_position == "before_activation"
    x = Conv2D(
        filters,
        kernel,
        padding="same",
        dilation_rate=dilation,
        strides=strides,
        kernel_initializer="he_normal",
        use_bias=not normalize_first,
        name=f"{place}_conv_{letter}",
    )(x)
    if dropout_rate:
        x = keras.layers.Dropout(dropout_rate, name=f"{place}_dropout_{letter}")(x)
    if normalize_first:
        x = style.normalize(x, name=f"{place}_norm_{letter}")
    if shortcut is not None:
        x = keras.layers.Add(name=f"{place}_add")([x, shortcut])
    x = keras.layers.Activation(style.activation, name=f"{place}_act_{letter}")(x)
    return x if normalize_first else style.normalize(x, name=f"{place}_norm_{letter}")


def conv_block(x, style: ConvStyle, *, name: str, filters: int, kernel=(3, 3), dilation=(1, 1), dropout_rate: float = 0.0, residual: bool = False):
    """Two conv_units "a" and "b" with dropout between them (no layer where the rate is 0).

    `residual` adds a 1x1 projection of the block's input, without bias (the second convolution or its normalization has one) and
    started with glorot_uniform as a linear map, directly before the second activation (He et al. 2015, arXiv:1512.03385, figure 2).

    Returns: [B, H, W, filters].
    """
    if style.gradient_checkpointing:
        plain = dataclasses.replace(style, gradient_checkpointing=False)
        options = {"filters": filters, "kernel": kernel, "dilation": dilation, "dropout_rate": dropout_rate, "residual": residual}
        return recomputed(lambda x: conv_block(x, plain, name=name, **options), x, name=name)
    shortcut = Conv2D(filters, 1, use_bias=False, name=f"{name}_shortcut")(x) if residual else None
    x = conv_unit(x, style, name=f"{name}_a", filters=filters, kernel=kernel, dilation=dilation)
    if dropout_rate:
        x = keras.layers.Dropout(dropout_rate, name=f"{name}_dropout")(x)
    return conv_unit(x, style, name=f"{name}_b", filters=filters, kernel=kernel, dilation=dilation, shortcut=shortcut)


def level_kernels(base_kernels, num_levels: int, *, owner: str) -> list[tuple[int, int]]:
    """Kernel (height, width) of each level: max(3, base - 2 * level), so 9 gives 9, 7, 5, 3, 3; a number means a square."""
    pair = _pair(base_kernels, 3, owner=owner, name="base_kernels")
    return [tuple(max(3, side - 2 * level) for side in pair) for level in range(num_levels)]


def level_dilations(dilation, num_levels: int, *, owner: str) -> list[tuple[int, int]]:
    """Dilation (height, width) of each level: max(1, base - level), so 3 gives 3, 2, 1, 1; a number means both axes."""
    pair = _pair(dilation, 1, owner=owner, name="dilation")
    return [tuple(max(1, side - level) for side in pair) for level in range(num_levels)]


def _pair(value, least: int, *, owner: str, name: str) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(_is_whole(side) and side >= least for side in pair):
        raise UserError(
            f"{owner}.{name}",
            expected=f"a whole number of {least} or more, or a pair (height, width) of them",
            found=repr(value),
            cure=f'for example --gin_param="{owner}.{name}=({least}, {least})"',
        )
    return pair


def check_whole(value, least: int, *, owner: str, name: str) -> None:
    """UserError unless `value` is an int (no bool) of at least `least`."""
    if not (_is_whole(value) and value >= least):
        raise UserError(f"{owner}.{name}", expected=f"a whole number of {least} or more", found=repr(value))


def check_choice(value, choices: tuple[str, ...], *, owner: str, name: str) -> None:
    """UserError unless `value` is one of the strings in `choices`."""
    if value not in choices:
        raise UserError(f"{owner}.{name}", expected=" or ".join(map(repr, choices)), found=repr(value), cure=suggest(str(value), choices).strip())


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
