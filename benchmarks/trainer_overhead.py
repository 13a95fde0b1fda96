"""Measure the overhead of the Trainer: its step against a bare `tf.function` of the same model, loss and Keras optimizer, on one constant batch.

    python benchmarks/trainer_overhead.py --image_size=128 --batch_size=8 --base_filters=16 --num_layers=4

Blocks of steps alternate, so that a change of machine speed affects both sides. Prints the median time per step of each side, their ratio, and its
95 % interval (10,000 bootstrap resamples of the pairs of blocks). The Trainer's step additionally reduces over replicas, checks for finite values,
updates metrics and copies the results to the host. Input, validation and checkpoints are not measured.
"""

import itertools
import os
import platform
import tempfile
import time
from pathlib import Path

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("image_size", 128, "Height and width of the network's input in pixels.", lower_bound=8)
flags.DEFINE_integer("batch_size", 8, "Examples a step.", lower_bound=1)
flags.DEFINE_integer("base_filters", 16, "Filters of the FlexUNet's first level.", lower_bound=1)
flags.DEFINE_integer("num_layers", 4, "Levels of the FlexUNet.", lower_bound=2)
flags.DEFINE_enum("normalization", "batch", ["none", "batch", "group"], "Of the FlexUNet.")
flags.DEFINE_float("dropout_rate", 0.05, "Of the FlexUNet.", lower_bound=0)
flags.DEFINE_string("loss", "ce_dice", "A name of objective.loss.")
flags.DEFINE_enum("optimizer", "Adam", ["Adam", "SGD"], "Of both sides.")
flags.DEFINE_enum("precision", "float32", ["float32", "mixed_bfloat16", "mixed_float16"], "Of both sides.")
flags.DEFINE_boolean("xla", False, "Compile both sides.")
flags.DEFINE_integer("blocks", 9, "Blocks of each side.", lower_bound=7)
flags.DEFINE_integer("steps", 20, "Steps a block.", lower_bound=1)


def trainer_side(data_dir: str):
    """(function that runs a number of steps of the Trainer, its Assembly, its batch)."""
    import gin

    from flexseg.commands import build
    from flexseg.config.configure import configure
    from flexseg.data.dataset import BuiltDataset
    from flexseg.distribution.strategies import open_replicas
    from flexseg.runs.directory import RunDirectory
    from flexseg.training.assembly import Assembly
    from flexseg.training.experiment import Experiment
    from flexseg.training.trainer import Trainer

    size = f"({FLAGS.image_size},{FLAGS.image_size})"
    slides = [f"synthetic_nuclei.image_size={size}", "synthetic_nuclei.slides=(1,0,0)", f"synthetic_nuclei.images_per_slide={FLAGS.batch_size}"]
    dataset = BuiltDataset(Path(build.run(dataset="synthetic_nuclei", data_dir=data_dir, gin_param=slides)))
    gin.clear_config()
    params = [
        "build_model.architecture=@flex_unet", f"input.image_size={size}", f"train.global_batch_size={FLAGS.batch_size}", "train.monitor='loss'",
        f"flex_unet.base_filters={FLAGS.base_filters}", f"flex_unet.num_layers={FLAGS.num_layers}", f"flex_unet.dropout_rate={FLAGS.dropout_rate}",
        f"flex_unet.normalization='{FLAGS.normalization}'", f"objective.loss='{FLAGS.loss}'", f"optimizer.name='{FLAGS.optimizer}'",
        "augment.enabled=False",
    ]  # fmt: skip
    configure([], params, modules=("flexseg.training.assembly",))
    experiment, replicas = Experiment.from_gin(), open_replicas(global_batch_size=FLAGS.batch_size, replicas=1)
    assembly = Assembly(experiment, dataset, replicas, precision=FLAGS.precision, xla="on" if FLAGS.xla else "off")
    trainer = Trainer(assembly, experiment, dataset, RunDirectory(os.devnull))
    batch = next(trainer.steps.batches())
    batches = itertools.repeat(batch)

    def block(steps: int) -> None:
        for _ in range(steps):
            trainer.steps.advance(batches, last=2**62)
        trainer.steps.wait_for_pending()

    return block, assembly, batch


def bare_side(assembly, batch):
    """A function that runs a number of steps of a `tf.function` with Keras's `optimizer.apply`, on a model of the same architecture."""
    import keras
    import tensorflow as tf

    from flexseg.models.build import build_model

    model = build_model(image_size=(FLAGS.image_size, FLAGS.image_size), channels=3, classes=2)
    optimizer = keras.optimizers.Adam(1e-3) if FLAGS.optimizer == "Adam" else keras.optimizers.SGD(1e-3, momentum=0.9)
    if FLAGS.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=FLAGS.xla)
    def step(image, mask):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(assembly.step_metrics.loss.example_loss(model(tf.cast(image, tf.float32), training=True), mask))
            scaled = optimizer.scale_loss(loss)
        optimizer.apply(tape.gradient(scaled, model.trainable_variables), model.trainable_variables)
        return loss

    image, mask = tf.identity(batch["image"]), tf.identity(batch["mask"])

    def block(steps: int) -> None:
        for _ in range(steps):
            loss = step(image, mask)
        loss.numpy()

    return block


def machine() -> str:
    """A description of the machine in one line."""
    import tensorflow as tf

    cpu = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), cpu)
    gpus = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in tf.config.list_physical_devices("GPU")]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{cpu}, {os.cpu_count()} cores, load {load}; {', '.join(gpus) or 'no GPU'}; TensorFlow {tf.__version__}, Python {platform.python_version()}"
    )


def main(_) -> None:
    """Runs the benchmark."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from flexseg.commands.quiet import load_tensorflow

    load_tensorflow()
    import numpy as np

    from flexseg.training.precision import precision_scope

    with tempfile.TemporaryDirectory() as folder, precision_scope(FLAGS.precision):
        trainer, assembly, batch = trainer_side(folder)
        sides = {"trainer": trainer, "bare": bare_side(assembly, batch)}
        for run in sides.values():
            run(3)  # traces, compiles, and warms up the allocator
        times = {name: [] for name in sides}
        for number in range(FLAGS.blocks):
            for name in list(sides)[:: 1 if number % 2 else -1]:  # alternates the order of the sides
                began = time.perf_counter()
                sides[name](FLAGS.steps)
                times[name].append((time.perf_counter() - began) / FLAGS.steps)
    pairs = np.array([times["trainer"], times["bare"]])
    draws = np.random.default_rng(0).integers(0, FLAGS.blocks, (10_000, FLAGS.blocks))
    resampled = np.median(pairs[:, draws], axis=-1)
    low, high = np.percentile(resampled[0] / resampled[1], [2.5, 97.5])
    medians = np.median(pairs, axis=1)
    print(f"\n{machine()}")
    print(
        f"FlexUNet {FLAGS.image_size}², {FLAGS.base_filters} filters, {FLAGS.num_layers} levels, {assembly.parameters:,} parameters, "
        f"batch {FLAGS.batch_size}, "
        f"{FLAGS.normalization} normalization, {FLAGS.loss}, {FLAGS.optimizer}, {FLAGS.precision}, XLA {'on' if FLAGS.xla else 'off'}"
    )
    for name, median in zip(times, medians, strict=True):
        print(f"{name:8} {1000 * median:9.2f} ms a step, median of {FLAGS.blocks} blocks of {FLAGS.steps}")
    print(f"ratio    {medians[0] / medians[1]:9.3f}    95 % {low:.3f} to {high:.3f}    (wanted: at most 1.05)")


if __name__ == "__main__":
    app.run(main)
