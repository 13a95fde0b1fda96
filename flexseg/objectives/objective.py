"""Objective: the loss settings: the bindings `objective.*`.

    # a .gin file
    objective.loss = "focal"
    objective.focal_gamma = 1.5

    objective = Objective()                                       # from gin's bindings
    loss = objective.bind(num_classes=6, background=5)            # from the dataset's LabelMap
    loss.example_loss(logits, mask)                               # reduction = "example"
    loss.batch_loss(logits, mask, weight, sum_over_replicas)      # reduction = "batch"

Losses are in reference_losses.py, pixel_losses.py and region_losses.py.
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
    """Loss, reduction and class weights of training.

    None is the default of the loss. A setting that the loss does not use is an error.

    Args:
      loss: name of the loss, one of `flexseg.objectives.loss_names()`.
      reduction: `example`: the weighted mean of the losses of the examples. `batch`: the loss of the sums over the global batch, as in the
        reference; it depends on which examples are in a batch.
      class_weights: weight >= 0 of each class id, background included; two for one sigmoid logit.
      focal_gamma: focusing parameter gamma >= 0 of `focal`; default 2.
      tversky_alpha: weight >= 0 of false positives; default 0.3.
      tversky_beta: weight >= 0 of false negatives; default 0.7.
      dice_smooth: smoothing s > 0, in pixels, in (2 I + s) / (T + P + s) of ce_dice and tversky; default 1.
      output_weights: deep supervision: loss weight >= 0 of each output of the model, the main output first; default: equal, with a sum of 1.

    Raises:
      UserError: an unknown loss or reduction, a setting that the loss does not use, or a value out of range.
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
        """Makes the loss for a head.

        Args:
          num_classes: channels of the logits; 1 for the sigmoid form.
          background: id of the background class, or None.
          outputs: number of outputs of the model; with several, the loss takes a list of logits.

        Raises:
          UserError: a loss that cannot train this head, or a wrong number of class weights or output weights.
        """
        loss, weights = loss_named(self.loss, num_classes=num_classes, background=background, **self._given()), self.output_weights
        if weights is not None and (outputs == 1 or len(weights) != outputs or not weights[0]):
            expected = f"{outputs} factors, the main output's above 0" if outputs > 1 else "none for a model with one output"
            cure = "" if outputs > 1 else "switch deep supervision on, or leave it out"
            raise UserError("objective.output_weights", expected=expected, found=repr(weights), cure=cure)
        return loss if outputs == 1 else Supervised(loss, weights or (1 / outputs,) * outputs)

    def _given(self) -> dict:
        """The bound settings that not every loss has."""
        options = [field.name for field in fields(self) if field.name not in ("loss", "reduction", "output_weights")]
        return {option: getattr(self, option) for option in options if getattr(self, option) is not None}
