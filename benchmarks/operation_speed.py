"""Measure operations of networks in float32 and bfloat16 on this CPU, forward and backward, each alone.

    python benchmarks/operation_speed.py

Prints the median of nine calls in milliseconds. The results explain the speeds in the table of networks (docs/measurements.md).
"""

import os
import statistics
import time

from flexseg.machine import choose_onednn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
choose_onednn()

import tensorflow as tf  # noqa: E402 (it reads both variables when it is imported)

from flexseg.models.layers.upsampling import BilinearUpsampling  # noqa: E402

OPERATIONS = {
    "depthwise 3 × 3, 64² × 128": (lambda x, k: tf.nn.depthwise_conv2d(x, k, [1, 1, 1, 1], "SAME"), (4, 64, 64, 128), (3, 3, 128, 1)),
    "3 × 3, 256² × 8 to 8": (lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"), (4, 256, 256, 8), (3, 3, 8, 8)),
    "3 × 3, 256² × 17 to 26": (lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"), (4, 256, 256, 17), (3, 3, 17, 26)),
    "3 × 3, 64² × 64 to 64": (lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"), (4, 64, 64, 64), (3, 3, 64, 64)),
    "raised from 128² × 16": (lambda x, _: BilinearUpsampling(2, name="up", dtype=x.dtype.name)(x), (4, 128, 128, 16), (1,)),
    "by tf.image.resize": (lambda x, _: tf.cast(tf.image.resize(x, (256, 256)), x.dtype), (4, 128, 128, 16), (1,)),
    "sigmoid(x) · x, 256² × 16": (lambda x, _: tf.sigmoid(x) * x, (4, 256, 256, 16), (1,)),
    "relu(x + x · k), 256² × 16": (lambda x, k: tf.nn.relu(x + x * k), (4, 256, 256, 16), (16,)),
}


def milliseconds(operation, x: tf.Tensor, k: tf.Tensor) -> float:
    """Median time of an operation with its gradients."""

    @tf.function
    def both(x, k):
        with tf.GradientTape() as tape:
            tape.watch([x, k])
            y = operation(x, k)
        return [g for g in tape.gradient(y, [x, k], output_gradients=y) if g is not None]

    times = []
    for _ in range(10):
        began = time.perf_counter()
        for gradient in both(x, k):
            gradient.numpy()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times[1:])


def main() -> None:
    """Runs the benchmark."""
    for name, (operation, *shapes) in OPERATIONS.items():
        full, half = (milliseconds(operation, *(tf.cast(tf.random.normal(shape), dtype) for shape in shapes)) for dtype in ("float32", "bfloat16"))
        print(f"{name:28} float32 {full:6.1f}  bfloat16 {half:6.1f}  {full / half:4.1f} times as fast")


if __name__ == "__main__":
    main()
