"""Objective: the settings of what training minimises.

Usage:
    # a .gin file
    objective.loss = "focal"
    objective.focal_gamma = 1.5

    objective = Objective()                                       # what gin binds
    loss = objective.bind(num_classes=6, background=5)            # the dataset's LabelMap decides
    loss.example_loss(logits, mask)                               # reduction = "example"
    loss.batch_loss(logits, mask, weight, sum_over_replicas)      # reduction = "batch"
"""

import math
from dataclasses import dataclass, fields
from typing import Literal

import gin

from flexseg.errors import UserError
from flexseg.objectives.loss import Loss
from flexseg.objectives.losses import check_options, loss_named
from flexseg.objectives.supervision import Supervised


@gin.configurable("objective")
@dataclass(frozen=True, kw_only=True)
class Objective:
    """What training minimises.

    Settings that the chosen loss does not use are refused, not ignored; None means the loss's own default.

    Args:
      loss: a name of `flexseg.objectives.loss_names()`.
      reduction: "example": every example has its own loss and the batch's is their weighted mean. "batch": the formula is applied once to the
        sums of the global batch, the reference's way; it makes the loss depend on which examples meet in a batch.
      class_weights: a factor >= 0 for each class id, background included (two for the sigmoid form).
      focal_gamma: focal's exponent >= 0, without unit; default 2.
      tversky_alpha: price of false positives >= 0; default 0.3.
      tversky_beta: price of false negatives >= 0; default 0.7.
      dice_smooth: s > 0 in (2 I + s) / (T + P + s) of ce_dice and tversky, in pixels; default 1.
      output_weights: of a model with several outputs (deep supervision): a factor >= 0 for each, the main one first; default their mean.

    Raises:
      UserError: for an unknown loss or reduction, a setting that the loss ignores, or one out of range.
    """

    loss: str = "ce_dice"
    reduction: Literal["example", "batch"] = "example"
    class_weights: tuple[float, ...] | None = None
    focal_gamma: float | None = None
    tversky_alpha: float | None = None
    tversky_beta: float | None = None
    dice_smooth: float | None = None
    output_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.reduction not in ("example", "batch"):
            raise UserError("objective.reduction", expected="'example' or 'batch'", found=repr(self.reduction))
        check_options(self.loss, self._given())
        for option, value in self._given().items():
            numbers = value if option == "class_weights" else (value,)
            may_be_zero = option not in ("class_weights", "dice_smooth")
            if not all(math.isfinite(x) and x >= 0 for x in numbers) or (sum(numbers) == 0 and not may_be_zero):
                wanted = {"class_weights": "numbers of at least 0, not all 0", "dice_smooth": "a number above 0"}
                raise UserError(f"objective.{option}", expected=wanted.get(option, "a number of at least 0"), found=repr(value))
        if self.output_weights is not None and not all(math.isfinite(x) and x >= 0 for x in self.output_weights):
            raise UserError("objective.output_weights", expected="numbers of at least 0", found=repr(self.output_weights))

    def bind(self, *, num_classes: int, background: int | None, outputs: int = 1) -> Loss | Supervised:
        """The loss for a head.

        Args:
          num_classes: channels of the logits, 1 for the sigmoid form.
          background: id of the background class, None where there is none.
          outputs: how many the model has; with more than one the loss takes a list of them.

        Raises:
          UserError: for a loss that this head cannot train with, or another number of class weights than classes, or of output weights than
            outputs.
        """
        loss, weights = loss_named(self.loss, num_classes=num_classes, background=background, **self._given()), self.output_weights
        if weights is not None and (outputs == 1 or len(weights) != outputs or not weights[0]):
            expected = f"{outputs} factors, the main output's above 0" if outputs > 1 else "none for a model with one output"
            cure = "" if outputs > 1 else "switch deep supervision on, or leave it out"
            raise UserError("objective.output_weights", expected=expected, found=repr(weights), cure=cure)
        return loss if outputs == 1 else Supervised(loss, weights or (1 / outputs,) * outputs)

    def _given(self) -> dict:
        """The bound settings of the loss itself: every field but those of all losses."""
        options = [field.name for field in fields(self) if field.name not in ("loss", "reduction", "output_weights")]
        return {option: getattr(self, option) for option in options if getattr(self, option) is not None}
