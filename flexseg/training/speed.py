"""Training speed of a network on this machine: the step of a run, on one batch of noise that stays where it is.

    speed = training_speed(lambda: build_model(...), batch_size=4, precision="mixed_bfloat16")
    speed.images_per_second, speed.memory_bytes

Input, validation and checkpoints are not in it; `flexseg train --dry_run` tells the time of a whole epoch.
"""

import dataclasses
import sys
import time
from collections.abc import Callable

import keras
import numpy as np
import psutil
import tensorflow as tf

from flexseg.distribution.loss_scale import LossScale
from flexseg.distribution.step import TrainStep
from flexseg.distribution.strategies import open_replicas
from flexseg.objectives.objective import Objective
from flexseg.objectives.step_metrics import StepMetrics
from flexseg.objectives.supervision import main_output
from flexseg.training.forward_backward import make_forward_backward
from flexseg.training.optimizers import OptimizerSettings
from flexseg.training.precision import precision_scope, resolve_xla

_WARM_UP = 2  # steps: the first traces and compiles, the second lets the allocator wait_for_pending


@dataclasses.dataclass(frozen=True)
class Speed:
    """Of one network.

    Attributes:
      images_per_second: by the median step.
      memory_bytes: at most, of this process on the host (where its system tells no peak: after the last step), or on the first GPU.
    """

    images_per_second: float
    memory_bytes: int


def training_speed(
    build: Callable[[], keras.Model], *, batch_size: int, precision: str, seconds: float = 5.0, min_steps: int = 3, max_steps: int = 50
) -> Speed:
    """Trains a network for some steps with Adam, cross-entropy and Dice on one device.

    Args:
      build: makes the model.
      batch_size: images a step.
      precision: a Keras dtype policy.
      seconds: for how long steps are timed, with `min_steps` at least and `max_steps` at most.
    """
    replicas, settings = open_replicas(global_batch_size=batch_size, replicas=1), OptimizerSettings()
    with precision_scope(precision):
        with replicas.scope():
            model = build()
            optimizer = settings.build()
            optimizer.build(model.trainable_variables)
            scale = LossScale(dynamic=precision == "mixed_float16", growth_steps=2000, dtype="float64" if precision == "float64" else "float32")
        classes = main_output(model.output).shape[-1]
        loss = Objective().bind(num_classes=classes, background=0, outputs=len(keras.tree.flatten(model.output)))
        step = TrainStep(
            replicas, model, optimizer, scale,
            make_forward_backward(model, StepMetrics(loss=loss, reduction="example", metrics=[]), replicas=1, accumulation_steps=1),
            clip=settings.clip(), seed=0, xla=resolve_xla("auto", on_gpu=replicas.on_gpu, excluded_by=[]),
        )  # fmt: skip
        batch, times = replicas.shard(_noise(model.input.shape[1:], classes, batch_size, model.input.dtype)), []
        while len(times) < _WARM_UP + min_steps or (sum(times[_WARM_UP:]) < seconds and len(times) < _WARM_UP + max_steps):
            began = time.perf_counter()
            step(batch, global_step=len(times), learning_rate=1e-4, total_weight=float(batch_size)).values.numpy()
            times.append(time.perf_counter() - began)
    memory = tf.config.experimental.get_memory_info("GPU:0")["peak"] if replicas.on_gpu else _peak_of_process()
    return Speed(batch_size / float(np.median(times[_WARM_UP:])), memory)


def _peak_of_process() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().rss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # bytes there, KiB on Linux


def _noise(shape, classes: int, batch_size: int, dtype: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "image": random.uniform(0, 255, (batch_size, *shape)).astype(dtype),
        "mask": random.integers(0, max(2, classes), (batch_size, *shape[:2], 1), np.uint8),
        "weight": np.ones(batch_size, dtype),
    }
