"""Renamed bindings: refused in gin files and flags, translated in the `config.gin` of a run.

    refuse_renamed("train.steps_per_call", "my.gin:3")      # UserError, the cure is train.steps_per_execution
    current_name("flex_unet.remat")                         # "flex_unet.gradient_checkpointing"

An entry stays until no run of its release can be resumed.
"""

from flexseg.errors import UserError

RENAMED = {  # before 0.2.0: since
    "train.steps_per_call": "train.steps_per_execution",
    "flex_unet.remat": "flex_unet.gradient_checkpointing",
}


def current_name(key: str) -> str:
    """The current name of the binding "name.parameter"."""
    return RENAMED.get(key, key)


def refuse_renamed(key: str, where: str) -> None:
    """Refuses an old name.

    Raises:
      UserError: `key` is an old name; the cure is the new one.
    """
    if key in RENAMED:
        raise UserError(where, expected=f"the name {RENAMED[key]}", found=f"{key}, its name before 0.2.0", cure=f"write {RENAMED[key]}")
