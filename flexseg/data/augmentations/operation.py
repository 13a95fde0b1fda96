"""What an operation of augmentation declares: one class says everything about it.

    @next_in(COLORS)                                  # after those that stand above it in the file
    class Brightness(ColorOperation):
        '''Adds the same number of grey levels to every value.'''

        name = "brightness"                           # binding augment.brightness_probability
        key_number = 8
        probability = 0.3
        levels = Range("brightness_levels", (-20.0, 20.0), limits=(-255.0, 255.0), sentence="the grey levels that are added.")

        def __call__(self, image, *, draw):
            return color.brightness(image, draw.value(self.levels))

To add an augmentation, add such a class to reorders.py, warps.py or colors.py, at the place where it should apply. flexseg/data/augmentation.py
makes its bindings, their checks and their documentation from it. What an operation is called with stands at the base class of its stage.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from flexseg.errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """A binding (lowest, highest), from which a number is drawn uniformly.

    Attributes:
      name: of the binding, after "augment.".
      default: (lowest, highest).
      limits: what the range may hold.
      sentence: what the number does and its unit, for the reference pages.
      logarithmic: whether the draw is uniform in the number's logarithm; the limits are above 0 then.
    """

    name: str
    default: tuple[float, float]
    _: dataclasses.KW_ONLY
    limits: tuple[float, float]
    sentence: str
    logarithmic: bool = False

    type = tuple[float, float]

    def check(self, value: tuple[float, float]) -> None:
        """Raises UserError where the range is out of order or beyond the limits."""
        least, most = self.limits
        if len(value) != 2 or not least <= value[0] <= value[1] <= most:
            raise UserError(f"augment.{self.name}", expected=f"(lowest, highest) in this order, within {least:g} to {most:g}", found=repr(value))


@dataclasses.dataclass(frozen=True)
class Number:
    """A binding that holds one number, the same for every image; its type is that of the default.

    Attributes:
      name: of the binding, after "augment.".
      default: an int or a float.
      limits: the least and the largest value; math.inf where there is no largest.
      unit: of the value, for the error message.
      sentence: what the number does, for the reference pages.
    """

    name: str
    default: float
    _: dataclasses.KW_ONLY
    limits: tuple[float, float]
    unit: str
    sentence: str

    @property
    def type(self) -> type:
        """int or float."""
        return type(self.default)

    def check(self, value: float) -> None:
        """Raises UserError where the value is beyond the limits."""
        least, most = self.limits
        if not least <= value <= most:
            expected = f"at least {least:g} {self.unit}" if most == math.inf else f"{least:g} to {most:g} {self.unit}"
            raise UserError(f"augment.{self.name}", expected=expected, found=repr(value))


class Operation:
    """One augmentation. Its ranges and numbers are class attributes.

    The first sentence of a subclass's docstring documents its probability, with "the probability that the operation" before it.

    Attributes:
      name: the binding of its probability is augment.<name>_probability.
      key_number: the number that is folded into the key of its draws. No other operation has it, and it never changes: it is part of what a seed
        means.
      probability: the default share of the images that it happens to.
    """

    name: str
    key_number: int
    probability: float

    @property
    def probability_name(self) -> str:
        """The binding of its probability, after "augment."."""
        return f"{self.name}_probability"

    @property
    def bindings(self) -> list[Range | Number]:
        """Its ranges and numbers, a base class's first."""
        attributes = {name: value for kind in reversed(type(self).__mro__) for name, value in vars(kind).items()}
        return [value for value in attributes.values() if isinstance(value, Range | Number)]

    @property
    def sentences(self) -> dict[str, str]:
        """Binding -> what it means."""
        says = " ".join((type(self).__doc__ or "").split())
        probability = f"the probability that the operation {says[:1].lower()}{says[1:]}"
        return {self.probability_name: probability, **{binding.name: binding.sentence for binding in self.bindings}}

    def check(self, settings: object) -> None:
        """Raises UserError for a probability, range or number that cannot work. `settings` has every binding as an attribute."""
        probability = getattr(settings, self.probability_name)
        if not 0 <= probability <= 1:
            raise UserError(f"augment.{self.probability_name}", expected="a number from 0 to 1", found=repr(probability))
        for binding in self.bindings:
            binding.check(getattr(settings, binding.name))


def next_in(stage: list[Any]) -> Callable[[type], type]:
    """A decorator of an operation's class, which puts an instance at the end of the stage: the order of the file is the order in which they apply."""

    def append(kind: type) -> type:
        stage.append(kind())
        return kind

    return append
