"""ReduceLROnPlateau: reduces the learning rate when `train.monitor` has stopped improving, as Keras's callback does: the bindings `plateau.*`.

    plateau = ReduceLROnPlateau(PlateauSettings(learning_rate_reducer=True), mode="min")
    reduced = plateau.update(0.31, learning_rate=1e-3)
    rate = 1e-3 * plateau.factor

Its state is on the host and is saved with every checkpoint (`state()`, `restore()`). In the reference the reducer never acted: a misspelt argument
left its patience at that of early stopping.
"""

import dataclasses
import math

import gin

from flexseg.errors import UserError


@gin.configurable("plateau")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PlateauSettings:
    """Learning rate reduction on a plateau of `train.monitor`.

    Attributes:
      learning_rate_reducer: whether to reduce the learning rate on a plateau.
      reducer_factor: factor of one reduction, between 0 and 1.
      reducer_patience: validations without improvement before a reduction.
      min_learning_rate: lower bound of the reduced rate, before the factor of the schedule.
      min_delta: smallest change that counts as an improvement (Keras's default).
    """

    learning_rate_reducer: bool = False
    reducer_factor: float = 0.4
    reducer_patience: int = 4
    min_learning_rate: float = 0.0
    min_delta: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 < self.reducer_factor < 1:
            raise UserError("plateau.reducer_factor", expected="a factor between 0 and 1", found=str(self.reducer_factor))
        if self.reducer_patience < 1 or self.min_learning_rate < 0 or self.min_delta < 0:
            raise UserError(
                "plateau", expected="reducer_patience of at least 1, min_learning_rate and min_delta of at least 0",
                found=f"{self.reducer_patience}, {self.min_learning_rate}, {self.min_delta}",
            )  # fmt: skip


class ReduceLROnPlateau:
    """The learning rate factor, reduced on plateaus.

    Args:
      settings: the bindings.
      mode: `min` or `max`: the direction of an improvement.
    """

    def __init__(self, settings: PlateauSettings, *, mode: str):
        self._settings, self._sign = settings, (1.0 if mode == "min" else -1.0)
        self.factor, self._best, self._waited = 1.0, math.inf, 0

    def update(self, value: float, *, learning_rate: float) -> bool:
        """Adds a monitored value; true when it reduced the factor. `learning_rate` is the rate without the factor."""
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
        """The state as JSON values."""
        return {"factor": self.factor, "best": self._best if math.isfinite(self._best) else None, "waited": self._waited}

    def restore(self, state: dict) -> None:
        """Restores `state()`."""
        self.factor, self._waited = state["factor"], state["waited"]
        self._best = math.inf if state["best"] is None else state["best"]
