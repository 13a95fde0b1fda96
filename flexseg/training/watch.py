"""What watches the validation: the best value, early stopping, and the plateau reduction of the learning rate.

    best = Best(mode="min", patience=10)
    improved = best.update(0.31)          # True: save the weights
    if best.exhausted: ...

Host state only, saved with the training state (`state()`, `restore()`). The rules are those of Keras's EarlyStopping and
ReduceLROnPlateau; in the reference the reducer could never act (a misspelt argument left its patience at that of early stopping).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import gin

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


class Best:
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


@gin.configurable("plateau")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PlateauSettings:
    """When the learning rate falls because `train.monitor` no longer improves.

    Attributes:
      learning_rate_reducer: whether it does.
      reducer_factor: what the rate is multiplied by.
      reducer_patience: validations without improvement before that.
      min_learning_rate: plateaus never take the rate below this; a schedule, which multiplies it, may.
      min_delta: the least change that counts as an improvement (Keras's default).
    """

    learning_rate_reducer: bool = False
    reducer_factor: float = 0.4
    reducer_patience: int = 4
    min_learning_rate: float = 0.0
    min_delta: float = 1e-4

    def __post_init__(self):
        if not 0 < self.reducer_factor < 1:
            raise UserError("plateau.reducer_factor", expected="a factor between 0 and 1", found=str(self.reducer_factor))
        if self.reducer_patience < 1 or self.min_learning_rate < 0 or self.min_delta < 0:
            raise UserError(
                "plateau", expected="reducer_patience of at least 1, min_learning_rate and min_delta of at least 0",
                found=f"{self.reducer_patience}, {self.min_learning_rate}, {self.min_delta}",
            )  # fmt: skip


class Plateau:
    """The factor on the learning rate, lowered at plateaus.

    Args:
      settings: the bindings.
      mode: `min` or `max`, of the monitored value.
    """

    def __init__(self, settings: PlateauSettings, *, mode: str):
        self._settings, self._sign = settings, (1.0 if mode == "min" else -1.0)
        self.factor, self._best, self._waited = 1.0, math.inf, 0

    def update(self, value: float, *, learning_rate: float) -> bool:
        """Notes a value; true when the factor fell. `learning_rate` is the rate before the factor."""
        if not self._settings.learning_rate_reducer:
            return False
        signed = self._sign * value
        if signed < self._best - self._settings.min_delta:
            self._best, self._waited = signed, 0
            return False
        self._waited += 1
        if self._waited < self._settings.reducer_patience:
            return False
        self._waited = 0
        lowered = max(self.factor * self._settings.reducer_factor, self._settings.min_learning_rate / learning_rate)
        if lowered >= self.factor:
            return False
        self.factor = lowered
        return True

    def state(self) -> dict:
        """Everything that `restore` needs, as JSON values."""
        return {"factor": self.factor, "best": self._best if math.isfinite(self._best) else None, "waited": self._waited}

    def restore(self, state: dict) -> None:
        """Continues from `state()`."""
        self.factor, self._waited = state["factor"], state["waited"]
        self._best = math.inf if state["best"] is None else state["best"]
