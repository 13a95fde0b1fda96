"""ConvStyle: normalization and activation behind every convolution of a network.

Usage:
    style = ConvStyle(owner="my_net", activation="mish", normalization="group")
    x = style.normalize(x, name="encoder_0_norm_a")
"""

import dataclasses
from typing import Annotated, ClassVar, Literal

import keras

from flexseg.errors import UserError, choose
from flexseg.models.layers.arguments import OneOf, Settings, check_choice, check_whole
from flexseg.models.layers.normalization import BatchNormalization

NORMALIZATIONS = ("none", "batch", "sync_batch", "group")
POSITIONS = ("after_activation", "before_activation")
# Keras's activations that act on each value alone; the others mix or drop channels, or need arguments.
ACTIVATIONS = tuple(
    name
    for name in dir(keras.activations)
    if not name.startswith("_") and name not in ("get", "serialize", "deserialize", "glu", "softmax", "log_softmax", "sparsemax", "threshold")
)
ActivationName = Annotated[str, OneOf(ACTIVATIONS)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvStyle(Settings):
    """What follows every convolution of a network.

    `@architecture` gives a network the fields of ARGUMENTS as arguments of its own.

    Attributes:
      owner: the gin name of the network. Errors name `owner.field`.
      activation: activation of the convolutions, one of ACTIVATIONS (the names `keras.activations.get` knows); "mish" is x * tanh(softplus(x)).
      normalization: normalization of the convolutions: "none", "batch", "sync_batch" (statistics over all replicas) or "group".
      normalization_position: "before_activation", where the convolution has no bias, because the normalization's own shift replaces it (and
        Adam would turn its rounding noise into steps), or "after_activation" (the reference's FlexUNet).
      group_count: groups of channels for normalization="group"; must divide the number of channels of every convolution.
      momentum: share of the moving statistics that batch normalizations keep at each step, those of an encoder included. Keras's default is 0.99;
        runs of a few hundred steps need less.
      gradient_checkpointing: compute the activations of each block again in the backward pass instead of keeping them: less memory, a third more
        time (see gradient_checkpointing.py).

    Raises:
      UserError: a name that does not exist, or a group_count that is not a positive whole number.
    """

    ARGUMENTS: ClassVar = {name: name for name in ("normalization", "activation", "group_count")} | {"normalization_momentum": "momentum"}

    owner: str = "ConvStyle"
    activation: str = "relu"
    normalization: Literal["none", "batch", "sync_batch", "group"] = "none"
    normalization_position: Literal["after_activation", "before_activation"] = "before_activation"
    group_count: int = 8
    momentum: float = 0.99
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
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

    @property
    def use_bias(self) -> bool:
        """Whether a convolution directly before `normalize` has a bias: a normalization takes it out again."""
        return self.normalization == "none"

    def normalize(self, x: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
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
