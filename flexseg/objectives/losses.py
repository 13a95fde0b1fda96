"""Finds a loss by its name; the losses are in reference_losses.py, pixel_losses.py and region_losses.py.

    loss_named("bce_dice_loss", num_classes=1, background=0)
    loss_named("focal", num_classes=6, background=5, focal_gamma=1.5)

A loss is a function `name(head, *, setting=…) -> Loss` in the `__all__` of one of these files; nothing is listed here. Its keywords are settings of
`objective`. A custom loss is registered in a module named with `--user_module`:

    @register_loss
    def log_dice(head, *, dice_smooth=1.0):
        return Loss(name="log_dice", ...)
"""

import inspect
from collections.abc import Callable
from types import ModuleType

from flexseg.errors import UserError, suggest
from flexseg.objectives import pixel_losses, reference_losses, region_losses
from flexseg.objectives.head import Head
from flexseg.objectives.loss import Loss


def _losses_of(module: ModuleType) -> dict[str, Callable[..., Loss]]:
    """The losses of a module: the functions in its `__all__`."""
    return {name: getattr(module, name) for name in module.__all__}


_BUILDERS: dict[str, Callable[..., Loss]] = {**_losses_of(reference_losses), **_losses_of(pixel_losses), **_losses_of(region_losses)}
_BUILDERS["sparse_categorical_crossentropy"] = pixel_losses.categorical_crossentropy


def loss_names() -> tuple[str, ...]:
    """The names of all losses, sorted."""
    return tuple(sorted(_BUILDERS))


def register_loss(builder: Callable[..., Loss]) -> Callable[..., Loss]:
    """Decorator that registers a function `(head: Head, *, settings...) -> Loss` under its name. Raises a UserError if the name exists."""
    name = builder.__name__
    if name in _BUILDERS:
        raise UserError(f"loss {name!r}", expected="a name that no other loss has", found="one of flexseg's names", cure="rename the function")
    _BUILDERS[name] = builder
    return builder


def check_options(name: str, options: dict) -> None:
    """Checks that a loss takes all the settings.

    Args:
      name: name of the loss.
      options: {setting: value}, such as {"focal_gamma": 1.5}.

    Raises:
      UserError: an unknown name, or a setting that the loss does not take.
    """
    if name not in _BUILDERS:
        raise UserError("objective.loss", expected="one of " + ", ".join(loss_names()), found=repr(name), cure=suggest(name, _BUILDERS).strip())
    parameters = inspect.signature(_BUILDERS[name]).parameters.values()
    takes = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    for option, value in options.items():
        if option not in takes:
            raise UserError(f"objective.{option}", expected=f"no value, since {name} takes {', '.join(takes) or 'no settings'}", found=repr(value),
                            cure="take the binding out or choose another objective.loss")  # fmt: skip


def loss_named(name: str, *, num_classes: int, background: int | None, **options: object) -> Loss:
    """Makes a loss by name.

    Args:
      name: one of `loss_names()`.
      num_classes: channels of the logits; 1 for the sigmoid form.
      background: id of the background class, or None.
      **options: settings of the loss, such as `focal_gamma`.

    Raises:
      UserError: an unknown name, a setting that the loss does not take, or a head that it cannot train.
    """
    check_options(name, options)
    return _BUILDERS[name](Head(num_classes=num_classes, background=background), **options)
