"""Learning rate schedules, computed on the host: the bindings `schedule.*`.

    schedule.name = "cosine"
    schedule.warmup_steps = 200

A schedule is a pure function of the global step and has no state. Plateaus are in `plateau.py`.
"""

import dataclasses
import math
from typing import Literal

import gin

from flexseg.errors import UserError


@gin.configurable("schedule")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate schedule: a factor on `optimizer.learning_rate`.

    Attributes:
      name: `constant`; `cosine`, cosine decay to `final_factor` (Loshchilov and Hutter 2017, without restarts); `polynomial`, decay as
        (1 - t) ** power (DeepLab's "poly" policy, power 0.9).
      warmup_steps: steps of linear warmup, from 1 / warmup_steps to 1.
      schedule_epochs: epochs of warmup and decay together; default `train.epochs`. If it is set, a finished run can be extended.
      power: exponent of `polynomial`.
      final_factor: the factor at the end of the decay and after it.
    """

    name: Literal["constant", "cosine", "polynomial"] = "constant"
    warmup_steps: int = 0
    schedule_epochs: int | None = None
    power: float = 0.9
    final_factor: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise UserError("schedule.warmup_steps", expected="0 or more", found=str(self.warmup_steps))
        if self.schedule_epochs is not None and self.schedule_epochs < 1:
            raise UserError("schedule.schedule_epochs", expected="at least 1", found=str(self.schedule_epochs))
        if not 0 <= self.final_factor <= 1 or self.power <= 0:
            raise UserError(
                "schedule.final_factor, schedule.power", expected="a factor from 0 to 1, a power above 0", found=f"{self.final_factor}, {self.power}"
            )
        if self.name == "constant" and (self.schedule_epochs is not None or self.final_factor != 0.0):
            raise UserError("schedule.name", expected="'cosine' or 'polynomial' beside schedule_epochs or final_factor", found="'constant'")

    @property
    def depends_on_epochs(self) -> bool:
        """Whether `train.epochs` changes the learning rate of a step."""
        return self.name != "constant" and self.schedule_epochs is None

    def factor(self, step: int, *, epochs: int, steps_per_epoch: int) -> float:
        """The factor at global step `step`, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.name == "constant":
            return 1.0
        total = (self.schedule_epochs or epochs) * steps_per_epoch - self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / max(1, total))
        fall = 0.5 * (1 + math.cos(math.pi * done)) if self.name == "cosine" else (1 - done) ** self.power
        return self.final_factor + (1 - self.final_factor) * fall
