"""EarlyStopping: the best value of `train.monitor` so far, and when training stops without a better one. The rules of Keras's EarlyStopping.

    early_stopping = EarlyStopping(mode="min", patience=10)
    improved = early_stopping.update(0.31, epoch=3)          # True: save the best weights
    if early_stopping.exhausted: ...

Host state only, saved with every checkpoint (`state()`, `restore()`).
"""

import math
from collections.abc import Mapping, Sequence

from flexseg.errors import UserError, suggest


def monitor_mode(mode: str, monitor: str, *, higher_is_better: Mapping[str, bool], class_names: Sequence[str], validates: bool) -> str:
    """`min` or `max` for what `train.mode` says of `train.monitor`.

    Args:
      mode: `auto`, `min` or `max`.
      monitor: the name of a loss or metric, with `val_` before it for that of the validation.
      higher_is_better: by name of a metric.
      class_names: whose Dice the validation tells.
      validates: whether there is a validation split.

    Raises:
      UserError: for a name that nothing has, or one of the validation where there is none.
    """
    train = ["loss", *higher_is_better]
    valid = [f"val_{name}" for name in [*train, *(f"dice/{name}" for name in class_names)]]
    if monitor not in train + valid:
        cure = f"bind one of them.{suggest(monitor, train + valid)}"
        raise UserError("train.monitor", expected="one of " + ", ".join(train + valid), found=repr(monitor), cure=cure)
    if monitor in valid and not validates:
        raise UserError("train.monitor", expected="a validation split for " + monitor, found="none", cure="--gin_param=\"train.monitor='loss'\"")
    if mode != "auto":
        return mode
    name = monitor.removeprefix("val_")
    return "max" if higher_is_better.get(name, name != "loss") else "min"


class EarlyStopping:
    """The best value so far, and how long ago it was.

    Args:
      mode: `min` or `max`.
      patience: updates without improvement after which `exhausted` is true; 0 for never.
    """

    def __init__(self, *, mode: str, patience: int):
        self._sign, self._patience = (1.0 if mode == "min" else -1.0), patience
        self.value, self.epoch, self.waited = None, None, 0

    def update(self, value: float, *, epoch: int) -> bool:
        """Notes the value of `epoch`; true when it is the best so far. A value that is not finite never is."""
        if math.isfinite(value) and (self.value is None or self._sign * value < self._sign * self.value):
            self.value, self.epoch, self.waited = value, epoch, 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether training should stop."""
        return self._patience > 0 and self.waited >= self._patience

    def state(self) -> dict:
        """Everything that `restore` needs, as JSON values."""
        return {"value": self.value, "epoch": self.epoch, "waited": self.waited}

    def restore(self, state: dict) -> None:
        """Continues from `state()`."""
        self.value, self.epoch, self.waited = state["value"], state["epoch"], state["waited"]
