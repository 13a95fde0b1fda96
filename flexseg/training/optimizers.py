"""Optimizers and gradient clipping: the bindings `optimizer.*`.

    optimizer.name = "AdamW"
    optimizer.learning_rate = 1e-3
    optimizer.weight_decay = 1e-4

The optimizers are Keras's, with fused updates (`fused_optimizers.py`); decoupled weight decay and clipping stand in the step,
after the all-reduce, where they mean the same on any number of replicas.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import gin
import tensorflow as tf

from flexseg.errors import UserError
from flexseg.training.fused_optimizers import FusedAdam, FusedSGD


@gin.configurable("optimizer")
@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """The optimizer, its rate and its clipping.

    Attributes:
      name: `Adam`, `AdamW` (decoupled weight decay) or `SGD`.
      learning_rate: before schedule and plateau reduction.
      clipvalue: bound on the absolute value of every element of the reduced gradients.
      clipnorm: bound on the L2 norm of each gradient tensor.
      global_clipnorm: bound on the L2 norm of all gradients together. At most one of the three.
      weight_decay: of `AdamW`, per step and unit of learning rate, on every trainable weight as in Keras; default 0.004 there.
      beta_1, beta_2, epsilon: of `Adam` and `AdamW`; defaults 0.9, 0.999, 1e-7.
      momentum: of `SGD`; default 0.9.
      nesterov: of `SGD`.
    """

    name: Literal["Adam", "AdamW", "SGD"] = "Adam"
    learning_rate: float = 1e-3
    clipvalue: float | None = None
    clipnorm: float | None = None
    global_clipnorm: float | None = None
    weight_decay: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    momentum: float | None = None
    nesterov: bool = False

    def __post_init__(self):
        if self.learning_rate <= 0:
            raise UserError("optimizer.learning_rate", expected="a rate above 0", found=str(self.learning_rate))
        clips = [name for name in ("clipvalue", "clipnorm", "global_clipnorm") if getattr(self, name) is not None]
        if len(clips) > 1:
            raise UserError("optimizer", expected="at most one of clipvalue, clipnorm, global_clipnorm", found=", ".join(clips))
        for name in clips:
            if getattr(self, name) <= 0:
                raise UserError(f"optimizer.{name}", expected="a bound above 0", found=str(getattr(self, name)))
        users = {"weight_decay": ("AdamW",), "momentum": ("SGD",), "nesterov": ("SGD",)}
        users |= {name: ("Adam", "AdamW") for name in ("beta_1", "beta_2", "epsilon")}
        for name, optimizers in users.items():
            if getattr(self, name) not in (None, False) and self.name not in optimizers:
                raise UserError(f"optimizer.{name}", expected=f"optimizer.name {' or '.join(optimizers)} beside it", found=repr(self.name))

    @property
    def decay(self) -> float:
        """Weight decay that the step applies."""
        if self.name != "AdamW":
            return 0.0
        return 0.004 if self.weight_decay is None else self.weight_decay

    def build(self) -> FusedAdam | FusedSGD:
        """The optimizer, without clipping and decay; to be made and built in the replicas' scope."""
        if self.name == "SGD":
            return FusedSGD(self.learning_rate, momentum=0.9 if self.momentum is None else self.momentum, nesterov=self.nesterov)
        given = {name: getattr(self, name) for name in ("beta_1", "beta_2", "epsilon") if getattr(self, name) is not None}
        return FusedAdam(self.learning_rate, **given)

    def clip(self) -> Callable[[list[tf.Tensor]], list[tf.Tensor]]:
        """A pure function of the reduced gradients."""
        if self.clipvalue is not None:
            return lambda gradients: [tf.clip_by_value(g, -self.clipvalue, self.clipvalue) for g in gradients]
        if self.clipnorm is not None:
            return lambda gradients: [tf.clip_by_norm(g, self.clipnorm) for g in gradients]
        if self.global_clipnorm is not None:
            return lambda gradients: tf.clip_by_global_norm(gradients, self.global_clipnorm)[0]
        return lambda gradients: gradients
