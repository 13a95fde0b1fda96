"""ReduceLROnPlateau: lowers the learning rate where `train.monitor` no longer improves: the bindings `plateau.*`. The rules of Keras's callback.

    plateau = ReduceLROnPlateau(PlateauSettings(learning_rate_reducer=True), mode="min")
    lowered = plateau.update(0.31, learning_rate=1e-3)
    rate = 1e-3 * plateau.factor

Host state only, saved with every checkpoint (`state()`, `restore()`). In the reference the reducer could never act: a misspelt argument left its
patience at that of early stopping.
"""

import dataclasses
import math

import gin

from flexseg.errors import UserError


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


class ReduceLROnPlateau:
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
