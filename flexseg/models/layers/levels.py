"""The levels of a U-Net: how many there are, and the channels, kernel and dilation on each.

Usage:
    levels = Levels(owner="my_net", base_filters=16, base_kernels=(9, 9), num_layers=5)
    levels.filters                                                  # [16, 32, 64, 128, 256]
    levels.kernels                                                  # [(9, 9), (7, 7), (5, 5), (3, 3), (3, 3)]
    x = conv_unit(x, style, name="encoder_2_a", **levels.conv(2))
"""

import dataclasses
from typing import Any, ClassVar

from flexseg.errors import UserError
from flexseg.models.layers.arguments import Settings, check_whole, is_whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Levels(Settings):
    """Depth, channels, kernels and dilations of a network. Level i lies at 1 / 2**i of the image size.

    Attributes:
      owner: the gin name of the network. Errors name `owner.field`.
      base_filters: channels of level 0. Level i has base_filters * 2**i.
      base_kernels: kernel of level 0, a number or (height, width), at least 3. Level i has max(3, base - 2 * i).
      num_layers: levels, the deepest included; 2 or more.
      dilation: dilation of level 0, a number or (height, width). Level i has max(1, dilation - i).
      least_filters: what base_filters must be at least.

    Raises:
      UserError: a value out of range.
    """

    ARGUMENTS: ClassVar = {name: name for name in ("base_filters", "base_kernels", "num_layers", "dilation")}

    owner: str = "Levels"
    base_filters: int
    base_kernels: int | tuple[int, int] = (3, 3)
    num_layers: int
    dilation: int | tuple[int, int] = (1, 1)
    least_filters: int = 1

    def __post_init__(self) -> None:
        check_whole(self.base_filters, self.least_filters, owner=self.owner, name="base_filters")
        check_whole(self.num_layers, 2, owner=self.owner, name="num_layers")
        _pair(self.base_kernels, 3, owner=self.owner, name="base_kernels")
        _pair(self.dilation, 1, owner=self.owner, name="dilation")

    @property
    def filters(self) -> list[int]:
        """Channels of each level."""
        return [self.base_filters * 2**level for level in range(self.num_layers)]

    @property
    def kernels(self) -> list[tuple[int, int]]:
        """(height, width) of each level's kernel."""
        return level_kernels(self.base_kernels, self.num_layers, owner=self.owner)

    @property
    def dilations(self) -> list[tuple[int, int]]:
        """(height, width) of each level's dilation."""
        return level_dilations(self.dilation, self.num_layers, owner=self.owner)

    def conv(self, level: int) -> dict[str, Any]:
        """{"filters", "kernel", "dilation"} of a level's convolutions, for conv_unit and conv_block."""
        return {"filters": self.filters[level], "kernel": self.kernels[level], "dilation": self.dilations[level]}


def level_kernels(base_kernels: int | tuple[int, int], num_levels: int, *, owner: str) -> list[tuple[int, int]]:
    """Kernel (height, width) of each level: max(3, base - 2 * level), so 9 gives 9, 7, 5, 3, 3. A number means a square."""
    height, width = _pair(base_kernels, 3, owner=owner, name="base_kernels")
    return [(max(3, height - 2 * level), max(3, width - 2 * level)) for level in range(num_levels)]


def level_dilations(dilation: int | tuple[int, int], num_levels: int, *, owner: str) -> list[tuple[int, int]]:
    """Dilation (height, width) of each level: max(1, base - level), so 3 gives 3, 2, 1, 1. A number means both axes."""
    height, width = _pair(dilation, 1, owner=owner, name="dilation")
    return [(max(1, height - level), max(1, width - level)) for level in range(num_levels)]


def _pair(value: Any, least: int, *, owner: str, name: str) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(is_whole(side, least) for side in pair):
        raise UserError(
            f"{owner}.{name}",
            expected=f"a whole number of {least} or more, or a pair (height, width) of them",
            found=repr(value),
            cure=f'for example --gin_param="{owner}.{name}=({least}, {least})"',
        )
    return pair
