"""The settings of training: the bindings `train.*`.

    train.epochs = 100
    train.global_batch_size = 8

Optimizer, schedule, loss and input have settings of their own: `optimizer.*`, `schedule.*`, `objective.*`, `input.*`.
"""

import dataclasses
from typing import Literal

import gin

from flexseg.errors import UserError


@gin.configurable("train")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Epochs, batch size, precision, monitoring and checkpoints of a run.

    Attributes:
      epochs: number of epochs. An epoch sets when to validate and report; the training data is one endless stream.
      steps_per_epoch: optimizer steps per epoch; default ⌈examples / global batch⌉.
      global_batch_size: examples per step over all replicas; default 4 if `batch_size_per_replica` is not set either.
      batch_size_per_replica: examples per step on each replica, instead of `global_batch_size`.
      accumulation_steps: gradient accumulation: micro-batches per step and replica, to save memory. The gradient is that of the whole batch; batch
        normalization uses the statistics of each micro-batch.
      steps_per_execution: steps per call of the compiled function, as in Keras's `compile`; faster for small models. Signals and skipped steps are
        handled after the call.
      seed: seed of initial weights, data order, augmentation and dropout.
      precision: Keras dtype policy; `auto` is mixed_bfloat16 where the hardware supports it, else mixed_float16 from compute capability 7.0 on, else
        float32. float64 is for comparisons.
      xla: compile the step with XLA; `auto` is on for GPUs unless another setting excludes it, and off for CPUs.
      deterministic: op determinism: equal results on the same machine type, thread count and replica count; excludes XLA.
      metrics: names of the metrics computed on both splits, beside the loss.
      monitor: value that selects the best weights and drives early stopping: `val_loss`, `val_<metric>`, `val_mean_foreground_dice`, …
      mode: direction of an improvement of `monitor`; `auto` is min for losses and max for metrics.
      patience: validations without improvement until early stopping; 0 for never.
      validate_every: epochs between validations.
      curves_every: epochs between plots of the learning curves.
      checkpoint_steps: steps between checkpoints; 0 for none. There is also a checkpoint at the end of an epoch, while checkpoints take at most
        a twentieth of the time, and one at the end of the run.
      checkpoint_minutes: minutes between checkpoints, within an epoch too; 0 for none.
      keep: number of latest checkpoints to keep.
      max_skipped_steps: consecutive steps with a non-finite loss or gradient after which the run stops.
      loss_scale_growth_steps: consecutive applied steps after which the float16 loss scale doubles.
      watchdog_multiple: timeout of the watchdog in median step times. If no step ends in time, it prints all stacks and exits with 75; 0 turns it
        off.
      watchdog_minutes: minimum timeout of the watchdog.
    """

    epochs: int = 100
    steps_per_epoch: int | None = None
    global_batch_size: int | None = None
    batch_size_per_replica: int | None = None
    accumulation_steps: int = 1
    steps_per_execution: int = 1
    seed: int = 0
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16", "float64"] = "auto"
    xla: Literal["auto", "on", "off"] = "auto"
    deterministic: bool = False
    metrics: tuple[str, ...] = ("mean_foreground_dice",)
    monitor: str = "val_loss"
    mode: Literal["auto", "min", "max"] = "auto"
    patience: int = 10
    validate_every: int = 1
    curves_every: int = 1
    checkpoint_steps: int = 0
    checkpoint_minutes: float = 15.0
    keep: int = 2
    max_skipped_steps: int = 50
    loss_scale_growth_steps: int = 2000
    watchdog_multiple: float = 100.0
    watchdog_minutes: float = 10.0

    def __post_init__(self) -> None:
        if self.global_batch_size is not None and self.batch_size_per_replica is not None:
            raise UserError(
                "train.global_batch_size, train.batch_size_per_replica",
                expected="one of them",
                found=f"{self.global_batch_size} and {self.batch_size_per_replica}",
                cure='--gin_param="train.global_batch_size=None"',
            )
        for name, least in {
            "epochs": 1, "steps_per_epoch": 1, "global_batch_size": 1, "batch_size_per_replica": 1, "validate_every": 1, "curves_every": 1, "keep": 1,
            "max_skipped_steps": 1, "loss_scale_growth_steps": 1, "patience": 0, "checkpoint_steps": 0, "checkpoint_minutes": 0, "seed": 0,
            "accumulation_steps": 1, "steps_per_execution": 1, "watchdog_multiple": 0, "watchdog_minutes": 0,
        }.items():  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"train.{name}", expected=f"at least {least}", found=str(value))
        if self.seed >= 2**32:
            raise UserError("train.seed", expected="at most 2**32 - 1", found=str(self.seed))
        if self.deterministic and self.xla == "on":
            raise UserError("train.xla", expected="'auto' or 'off' with train.deterministic", found="'on'", cure="--gin_param=\"train.xla='auto'\"")
