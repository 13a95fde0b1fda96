"""EarlyStopping: stops training when `train.monitor` has stopped improving, as Keras's callback does.

    early_stopping = EarlyStopping(mode="min", patience=10)
    improved = early_stopping.update(0.31, epoch=3)          # True: save the best weights
    if early_stopping.exhausted: ...

Its state is on the host and is saved with every checkpoint (`state()`, `restore()`).
"""

import math
from collections.abc import Mapping, Sequence

from flexseg.errors import UserError, suggest


def monitor_mode(mode: str, monitor: str, *, higher_is_better: Mapping[str, bool], class_names: Sequence[str], validates: bool) -> str:
    """Resolves `train.mode` to `min` or `max`.

    Args:
      mode: `auto`, `min` or `max`.
      monitor: name of the loss or of a metric; a `val_` prefix means the validation split.
      higher_is_better: {metric name: direction}.
      class_names: the classes, whose Dice can be monitored as `val_dice/<class>`.
      validates: whether the dataset has a validation split.

    Raises:
      UserError: for an unknown name, or a validation metric without a validation split.
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
    """The best monitored value and the number of updates since.

    Args:
      mode: `min` or `max`.
      patience: updates without improvement until `exhausted`; 0 for never.
    """

    def __init__(self, *, mode: str, patience: int):
        self._sign, self._patience = (1.0 if mode == "min" else -1.0), patience
        self.value: float | None = None
        self.epoch: int | None = None
        self.waited = 0

    def update(self, value: float, *, epoch: int) -> bool:
        """Adds the value of `epoch`; true when it is the best so far, which a non-finite value never is."""
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
        """The state as JSON values."""
        return {"value": self.value, "epoch": self.epoch, "waited": self.waited}

    def restore(self, state: dict) -> None:
        """Restores `state()`."""
        self.value, self.epoch, self.waited = state["value"], state["epoch"], state["waited"]
