"""What defines a training run: the bindings `train.*`.

Usage:
    train.epochs = 100
    train.global_batch_size = 8
"""

import dataclasses
from typing import Literal

import gin

from flexseg.errors import UserError


@gin.configurable("train")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """A run's length, batch, arithmetic, and what it watches.

    Attributes:
      epochs: epochs to train for; an epoch only says when to validate and report, the data is one endless stream.
      steps_per_epoch: optimizer steps an epoch; default ⌈examples / global batch⌉.
      global_batch_size: examples a step over all replicas; default 4 where `batch_size_per_replica` is not given either.
      batch_size_per_replica: examples a step on each replica; give this or the other.
      accumulation_steps: gradient accumulation: each replica's examples go through the network in this many micro-batches, one after the other, to
        fit into less memory. The gradient is that of the whole batch; batch normalization computes statistics by micro-batch.
      steps_per_execution: steps that the device runs in one call, as in Keras's `compile`; for small models. Signals and skipped steps are noticed
        after the call.
      seed: of initial weights, data order, augmentation and dropout.
      precision: `auto` takes mixed_bfloat16 where the hardware has it, else mixed_float16 from compute capability 7.0 on, else
        float32; float64 is for comparisons.
      xla: compile the step; `auto` is on for GPUs and off for CPUs, and off where something else in the config excludes it.
      deterministic: the same numbers in every run on the same machine type, thread count and replica count; excludes XLA.
      metrics: names of the metrics followed beside the loss on both splits.
      monitor: what chooses the best weights and stops early: `val_loss`, `val_<metric>`, `val_mean_foreground_dice`, …
      mode: whether the monitored value should fall or rise; `auto` knows losses from metrics.
      patience: validations without a better value after which training stops; 0 for never.
      validate_every: epochs between validations.
      curves_every: epochs between drawings of the curves.
      checkpoint_steps: steps between checkpoints; 0 for none. Beside these there is one at the end of an epoch, as long as they take no
        more than a twentieth of the time, and one at the end of the run.
      checkpoint_minutes: minutes between checkpoints, in the middle of an epoch too; 0 for none.
      keep: how many of the latest checkpoints stay.
      max_skipped_steps: steps in a row with a loss or gradient that is not finite after which the run stops.
      loss_scale_growth_steps: applied steps in a row after which the float16 loss scale doubles.
      watchdog_multiple: a run in which no step ends within this many times the median time of a step prints all stacks and leaves with 75;
        0 for never.
      watchdog_minutes: what the watchdog waits at least.
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

    def __post_init__(self):
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
