"""Benchmarks the training step of a network on this machine, with one batch of noise on the device.

    speed = training_speed(lambda: build_model(...), batch_size=4, precision="mixed_bfloat16")
    speed.images_per_second, speed.memory_bytes

Not measured: input pipeline, validation, checkpoints. `flexseg train --dry_run` estimates the time of an epoch.
"""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import psutil
import tensorflow as tf

from flexseg.data.preprocessing import Preprocessing
from flexseg.data.settings import InputSettings
from flexseg.distribution.loss_scale import LossScale
from flexseg.distribution.step import TrainStep
from flexseg.distribution.strategies import open_replicas
from flexseg.objectives.objective import Objective
from flexseg.objectives.step_metrics import StepMetrics
from flexseg.objectives.supervision import main_output
from flexseg.training.forward_backward import make_forward_backward
from flexseg.training.optimizers import OptimizerSettings
from flexseg.training.precision import precision_scope, resolve_xla

_WARM_UP = 2  # steps: the first traces and compiles, the second warms up the memory allocator


@dataclasses.dataclass(frozen=True)
class Speed:
    """Throughput and memory of a training step.

    Attributes:
      images_per_second: from the median step time.
      memory_bytes: peak memory of the first GPU, else of this process on the host (on Windows: its memory after the last step).
    """

    images_per_second: float
    memory_bytes: int


def training_speed(
    build: Callable[[], keras.Model], *, batch_size: int, precision: str, seconds: float = 5.0, min_steps: int = 3, max_steps: int = 50
) -> Speed:
    """Times training steps with Adam, cross-entropy and Dice loss on one device.

    Args:
      build: makes the model.
      batch_size: images per step.
      precision: a Keras dtype policy.
      seconds: duration of the timing.
      min_steps, max_steps: bounds on the number of timed steps.
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
            make_forward_backward(
                model, StepMetrics(loss=loss, reduction="example", metrics=[]), preprocessing=Preprocessing(InputSettings()), replicas=1
            ),
            clip=settings.clip(), seed=0, xla=resolve_xla("auto", on_gpu=replicas.on_gpu, excluded_by=[]),
        )  # fmt: skip
        batch = replicas.shard(_noise(model.input.shape[1:], classes, batch_size, model.input.dtype))
        times: list[float] = []
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


def _noise(shape: Sequence[int], classes: int, batch_size: int, dtype: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "image": random.uniform(0, 255, (batch_size, *shape)).astype(dtype),
        "mask": random.integers(0, max(2, classes), (batch_size, *shape[:2], 1), np.uint8),
        "weight": np.ones(batch_size, dtype),
    }
