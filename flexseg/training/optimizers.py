"""Optimizers and gradient clipping: the bindings `optimizer.*`.

    optimizer.name = "AdamW"
    optimizer.learning_rate = 1e-3
    optimizer.weight_decay = 1e-4

The optimizers are Keras's with fused updates (`fused_optimizers.py`). `TrainStep` applies weight decay and clipping after the all-reduce, so they do
not depend on the number of replicas.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import gin
import tensorflow as tf

from flexseg.errors import UserError
from flexseg.training.fused_optimizers import FusedAdam, FusedSGD


@gin.configurable("optimizer")
@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Optimizer, learning rate, gradient clipping and EMA.

    Attributes:
      name: `Adam`, `AdamW` (decoupled weight decay) or `SGD`.
      learning_rate: learning rate before scaling, schedule and plateau factor.
      scaling: scaling of the learning rate with the global batch: `none`; `linear`, rate × batch / base_batch_size (Goyal et al. 2017, arXiv
        1706.02677, with a warmup of 5 epochs: `schedule.warmup_steps`); `sqrt`, rate × √(batch / base_batch_size) (Krizhevsky 2014, arXiv 1404.5997).
      base_batch_size: global batch that `learning_rate` belongs to; required with a scaling.
      clipvalue: bound on the absolute value of every gradient element, after the all-reduce.
      clipnorm: bound on the L2 norm of each gradient tensor.
      global_clipnorm: bound on the L2 norm of all gradients together. At most one of the three can be set.
      weight_decay: weight decay of `AdamW`, times the learning rate per step, on every trainable weight as in Keras; default 0.004.
      beta_1, beta_2, epsilon: constants of `Adam` and `AdamW`; defaults 0.9, 0.999, 1e-7.
      momentum: momentum of `SGD`; default 0.9.
      nesterov: use Nesterov momentum in `SGD`.
      ema_momentum: decay of the exponential moving average (EMA) of the weights (Polyak and Juditsky 1992), 0.999 for example. Validation, best
        weights and prediction then use the EMA; None for none.
      encoder_rate_factor: factor on the learning rate, and so on weight decay, of the encoder variables; a pretrained encoder often needs a tenth.
      encoder_frozen_steps: steps in which the encoder variables are not updated. Batch normalization of the encoder still uses batch statistics,
        unless encoder_normalization freezes it. To freeze the encoder for good, encoder_trainable_layers = 0 also saves its backward pass.
    """

    name: Literal["Adam", "AdamW", "SGD"] = "Adam"
    learning_rate: float = 1e-3
    scaling: Literal["none", "linear", "sqrt"] = "none"
    base_batch_size: int | None = None
    clipvalue: float | None = None
    clipnorm: float | None = None
    global_clipnorm: float | None = None
    weight_decay: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    momentum: float | None = None
    nesterov: bool = False
    ema_momentum: float | None = None
    encoder_rate_factor: float = 1.0
    encoder_frozen_steps: int = 0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise UserError("optimizer.learning_rate", expected="a rate above 0", found=str(self.learning_rate))
        if (self.scaling == "none") != (self.base_batch_size is None) or not (self.base_batch_size is None or self.base_batch_size >= 1):
            raise UserError(
                "optimizer.base_batch_size",
                expected="the batch that optimizer.learning_rate was found at, beside a scaling; else none",
                found=f"{self.base_batch_size} with optimizer.scaling = {self.scaling!r}",
            )
        if self.ema_momentum is not None and not 0 < self.ema_momentum < 1:
            raise UserError("optimizer.ema_momentum", expected="a share between 0 and 1, such as 0.999", found=str(self.ema_momentum))
        if self.encoder_rate_factor <= 0:
            cure = '--gin_param="encoder_unet.encoder_trainable_layers=0" freezes an encoder for good (fpn, deeplabv3_plus, … alike)'
            raise UserError("optimizer.encoder_rate_factor", expected="a factor above 0", found=str(self.encoder_rate_factor), cure=cure)
        if self.encoder_frozen_steps < 0:
            raise UserError("optimizer.encoder_frozen_steps", expected="a number of steps, 0 for none", found=str(self.encoder_frozen_steps))
        clips = [name for name in ("clipvalue", "clipnorm", "global_clipnorm") if getattr(self, name) is not None]
        if len(clips) > 1:
            raise UserError("optimizer", expected="at most one of clipvalue, clipnorm, global_clipnorm", found=", ".join(clips))
        for name in clips:
            if getattr(self, name) <= 0:
                raise UserError(f"optimizer.{name}", expected="a bound above 0", found=str(getattr(self, name)))
        users: dict[str, tuple[str, ...]] = {"weight_decay": ("AdamW",), "momentum": ("SGD",), "nesterov": ("SGD",)}
        users |= {name: ("Adam", "AdamW") for name in ("beta_1", "beta_2", "epsilon")}
        for name, optimizers in users.items():
            if getattr(self, name) not in (None, False) and self.name not in optimizers:
                raise UserError(f"optimizer.{name}", expected=f"optimizer.name {' or '.join(optimizers)} beside it", found=repr(self.name))

    @property
    def decay(self) -> float:
        """The decoupled weight decay; 0 except for AdamW."""
        if self.name != "AdamW":
            return 0.0
        return 0.004 if self.weight_decay is None else self.weight_decay

    def scaled_rate(self, batch_size: int) -> float:
        """The learning rate, scaled to a global batch of `batch_size` examples."""
        if self.base_batch_size is None:  # without a scaling
            return self.learning_rate
        ratio = batch_size / self.base_batch_size
        return self.learning_rate * (ratio if self.scaling == "linear" else math.sqrt(ratio))

    @property
    def singles_out_encoder(self) -> bool:
        """Whether the encoder variables have their own learning rate."""
        return self.encoder_rate_factor != 1 or self.encoder_frozen_steps > 0

    def encoder_learning_rate(self, rate: tf.Tensor, step: tf.Tensor | int) -> tf.Tensor:
        """The encoder learning rate at global step `step`; 0 while the encoder is frozen."""
        return rate * self.encoder_rate_factor * tf.cast(step >= self.encoder_frozen_steps, rate.dtype)

    def build(self) -> FusedAdam | FusedSGD:
        """Makes the optimizer, without clipping and weight decay. Call it, and `build` of the result, in the scope of the strategy."""
        if self.name == "SGD":
            return FusedSGD(self.learning_rate, momentum=0.9 if self.momentum is None else self.momentum, nesterov=self.nesterov)
        given = {name: getattr(self, name) for name in ("beta_1", "beta_2", "epsilon") if getattr(self, name) is not None}
        return FusedAdam(self.learning_rate, **given)

    def clip(self) -> Callable[[list[tf.Tensor]], list[tf.Tensor]]:
        """The clipping as a pure function of the gradients after the all-reduce."""
        value, norm, global_norm = self.clipvalue, self.clipnorm, self.global_clipnorm
        if value is not None:
            return lambda gradients: [tf.clip_by_value(g, -value, value) for g in gradients]
        if norm is not None:
            return lambda gradients: [tf.clip_by_norm(g, norm) for g in gradients]
        if global_norm is not None:
            return lambda gradients: tf.clip_by_global_norm(gradients, global_norm)[0]
        return lambda gradients: gradients
