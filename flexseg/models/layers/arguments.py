"""Checks of a network's arguments, and the annotations that ask for them.

    check_whole(base_filters, 1, owner="my_net", name="base_filters")
    check_image_size(image_size, 32, because="2**(num_layers - 1), with my_net.num_layers = 6")

`@architecture` applies the checks to every annotated argument:

    def my_net(*, base_filters: Count = 16, num_layers: Annotated[int, AtLeast(2)] = 6, dropout_rate: Rate = 0.0, ...)

`owner` is the gin name of the network. Each error names `owner.argument`.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from flexseg.errors import UserError, suggest


class Settings:
    """Base of the classes that group arguments which networks share (see architecture.py). Each has a field `owner`.

    Attributes:
      ARGUMENTS: {argument of a network: field of the class}.
    """

    ARGUMENTS: ClassVar[Mapping[str, str]] = {}


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """An annotation: a whole number of `least` or more."""

    least: int

    def check(self, value: Any, *, owner: str, name: str) -> None:
        """See check_whole."""
        check_whole(value, self.least, owner=owner, name=name)


@dataclasses.dataclass(frozen=True)
class Share:
    """An annotation: a share from 0 to below 1."""

    def check(self, value: Any, *, owner: str, name: str) -> None:
        """See check_rate."""
        check_rate(value, owner=owner, name=name)


@dataclasses.dataclass(frozen=True)
class OneOf:
    """An annotation: one of several strings that are too many for a Literal."""

    choices: tuple[str, ...]

    def check(self, value: Any, *, owner: str, name: str) -> None:
        """See check_choice."""
        check_choice(value, self.choices, owner=owner, name=name)


Count = Annotated[int, AtLeast(1)]
Rate = Annotated[float, Share()]


def check_argument(value: Any, annotation: Any, *, owner: str, name: str) -> None:
    """Applies the annotation's checks: those of Annotated, of the elements of a tuple, and of a Literal of strings. Plain types check nothing."""
    for check in getattr(annotation, "__metadata__", ()):
        check.check(value, owner=owner, name=name)
    kind, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if kind is tuple:
        for element in value:
            check_argument(element, arguments[0], owner=owner, name=name)
    elif kind is typing.Literal and all(isinstance(choice, str) for choice in arguments):
        check_choice(value, arguments, owner=owner, name=name)


def check_whole(value: Any, least: int, *, owner: str, name: str) -> None:
    """UserError unless `value` is an int (no bool) of at least `least`."""
    if not is_whole(value, least):
        raise UserError(f"{owner}.{name}", expected=f"a whole number of {least} or more", found=repr(value))


def is_whole(value: Any, least: int) -> bool:
    """Whether `value` is an int (no bool) of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_choice(value: Any, choices: tuple[str, ...], *, owner: str, name: str) -> None:
    """UserError unless `value` is one of the strings in `choices`."""
    if value not in choices:
        raise UserError(f"{owner}.{name}", expected=" or ".join(map(repr, choices)), found=repr(value), cure=suggest(str(value), choices).strip())


def check_head(image_channels: int, num_classes: int, *, owner: str) -> None:
    """UserError unless both are whole numbers of 1 or more."""
    for name, value in (("image_channels", image_channels), ("num_classes", num_classes)):
        check_whole(value, 1, owner=owner, name=name)


def check_rate(value: Any, *, owner: str, name: str = "dropout_rate", times: int = 1) -> None:
    """UserError unless `value` is a share from 0 to below 1, and `times * value` is one too."""
    if not isinstance(value, (int, float)) or not 0 <= value * times < 1:
        bound = "1" if times == 1 else f"1/{times}, because the deepest level drops {times} times as much"
        cure = f'for example --gin_param="{owner}.{name}=0.04"'
        raise UserError(f"{owner}.{name}", expected=f"a share from 0 to below {bound}", found=repr(value), cure=cure)


def check_image_size(image_size: tuple[int, int], step: int, *, because: str, alternative: str = "") -> None:
    """Refuses a size whose sides are no multiples of `step`.

    Args:
      image_size: (height, width).
      step: what the architecture divides the image by.
      because: where the step comes from.
      alternative: another binding that would do, for the cure.

    Raises:
      UserError: names the nearest sizes below and above.
    """
    sides = tuple(image_size) if isinstance(image_size, (tuple, list)) else ()
    if len(sides) != 2:
        cure = 'for example --gin_param="input.image_size=(512, 512)"'
        raise UserError("input.image_size", expected="(height, width) in pixels", found=repr(image_size), cure=cure)
    for side in sides:
        check_whole(side, 1, owner="input", name="image_size")
    if any(side % step for side in sides):
        below, above = (tuple(max(step, (side + up) // step * step) for side in sides) for up in (0, step - 1))
        sizes = " or ".join(f'--gin_param="input.image_size={size}"' for size in dict.fromkeys((below, above)))
        raise UserError(
            "input.image_size",
            expected=f"height and width that are multiples of {step} = {because}",
            found=f"{sides[0]} x {sides[1]}",
            cure=sizes + (f", or {alternative}" if alternative else ""),
        )


def check_halvings(image_size: tuple[int, int], num_layers: int, *, owner: str, alternative: str = "") -> None:
    """Refuses a size that `num_layers` levels, each half the size of the one above, do not divide; see check_image_size."""
    because = f"2**(num_layers - 1), with {owner}.num_layers = {num_layers}"
    check_image_size(image_size, 2 ** (num_layers - 1), because=because, alternative=alternative)
