"""Check a GPU before long runs: `bash launch/test.sh --gpu`.

    python benchmarks/gpu_check.py                               # one GPU, at most 15 minutes
    python benchmarks/gpu_check.py --devices=cpu --steps=2 --image_size=32 --num_layers=3     # tries this program itself

Trains tnbc_flexunet.gin × {1 device, 2 logical devices on one GPU} × {mixed_bfloat16, mixed_float16} × XLA {off, on}, 200 steps each, and float32
without XLA as reference. Once each with XLA: the same with EMA and gradient checkpointing, malignant_breastdm_flexunet.gin (one sigmoid), and a
FlexUNet with 64 filters, 5 levels and 3 × 3 kernels on grayscale images of 576². With two devices the loss has reduction "example", because the
"batch" reduction excludes XLA there. An H200 took 50 s for each combination, most of it compilation. Each number of devices has its own process,
which counts as hung and is stopped when no step ends for --silence seconds.

Prints the mean loss of the last quarter of the steps relative to float32, images per second without the first quarter, skipped steps, and whether
all replicas have equal weights at the end. Exit code 1 after a hang, a crash, a non-finite last loss, unequal replicas, or when time ran out. Losses
are for inspection only: these settings have no normalization, and their first steps are unstable. Several GPUs are not covered: two logical devices
on one GPU do not use NCCL.
"""

import itertools
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_enum("devices", "gpu", ["gpu", "cpu"], "What to run on; cpu tries this program where there is no GPU.")
flags.DEFINE_integer("steps", 200, "Steps of each combination.", lower_bound=2)
flags.DEFINE_integer("image_size", 512, "Height and width of the network's input in pixels.", lower_bound=32)
flags.DEFINE_integer("num_layers", 8, "Levels of the network, 8 in both settings.", lower_bound=2)
flags.DEFINE_integer("global_batch_size", 2, "Examples a step over all devices, 2 in both settings.", lower_bound=2)
flags.DEFINE_integer("gpu_memory_mib", 0, "Memory of each of two logical GPUs; 0 for 45 % of the smallest card's.", lower_bound=0)
flags.DEFINE_float("minutes", 15, "What is not done by then is left out, and said.", lower_bound=0)
flags.DEFINE_float("silence", 180, "Seconds without a step, compilation included, that count as a hang.", lower_bound=1)
flags.DEFINE_integer("child", 0, "Internal: run all combinations on this many devices.")
flags.DEFINE_string("data_dir", None, "Internal: where the built dataset lies.")

# Gin files of the reference's settings.
REFERENCE = {"tnbc": "tnbc_flexunet.gin", "malignant_breastdm": "malignant_breastdm_flexunet.gin"}
OPTIONS = ("optimizer.ema_momentum=0.999", "flex_unet.gradient_checkpointing=True")
FIRST = {"precision": "float32", "xla": "off"}


def combinations(devices: int) -> list[dict]:
    """The combinations of one process, float32 first on one device."""
    half = [{"precision": p, "xla": x} for p, x in itertools.product(("mixed_bfloat16", "mixed_float16"), ("on", "off"))]
    compiled = {"precision": "mixed_float16", "xla": "on"}
    wanted = [("tnbc", c) for c in ([FIRST, *half] if devices == 1 else half)]
    wanted += [("malignant_breastdm", compiled), ("large", compiled)] if devices == 1 else [("tnbc_options", compiled)]
    return [{"settings": name, "devices": devices, **c} for name, c in wanted]


def bindings(combination: dict) -> tuple[str, list[str], str]:
    """(gin file, bindings, dataset) of a combination."""
    size, devices = FLAGS.image_size, combination["devices"]
    params = [f"train.global_batch_size={FLAGS.global_batch_size}", "train.monitor='loss'", "augment.enabled=False"]
    if combination["settings"] == "large":
        size = size * 9 // 8  # 576 for 512
        params += ["flex_unet.base_filters=64", f"flex_unet.num_layers={min(5, FLAGS.num_layers)}", "flex_unet.base_kernels=(3,3)"]
        return "default.gin", [*params, f"input.image_size=({size},{size})"], "grey"
    params += [f"input.image_size=({size},{size})", f"flex_unet.num_layers={FLAGS.num_layers}"]
    if devices > 1:
        params.append("objective.reduction='example'")
    if combination["settings"] == "tnbc_options":
        params += OPTIONS
    return REFERENCE[combination["settings"].removesuffix("_options")], params, "synthetic_nuclei"


def build_datasets(data_dir: str) -> None:
    """Builds two slides of synthetic nuclei, and a dataset of a few grayscale images."""
    import cv2

    from flexseg.datasets.synthetic_nuclei.nuclei import synthesize

    def build(*words: str) -> None:  # in its own process, so that this one does not reserve the GPU
        subprocess.run([sys.executable, "-m", "flexseg.commands.dispatcher", "build", f"--data_dir={data_dir}", *words], check=True)

    size = f"({FLAGS.image_size},{FLAGS.image_size})"
    params = (f"synthetic_nuclei.image_size={size}", "synthetic_nuclei.slides=(2,0,0)")
    build("--dataset=synthetic_nuclei", *(f"--gin_param={param}" for param in params))
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("images", "masks"):
            os.makedirs(os.path.join(folder, kind))
        for index in range(4):
            sample = synthesize(seed=1, slide=0, index=index, image_size=(FLAGS.image_size,) * 2)
            cv2.imwrite(os.path.join(folder, "images", f"{index}.png"), cv2.cvtColor(sample.image, cv2.COLOR_RGB2GRAY))
            cv2.imwrite(os.path.join(folder, "masks", f"{index}.png"), sample.mask * 255)
        build("--name=grey", f"--source={folder}", "--gin_param=split.proportions=(1.0,0.0,0.0)")


def measure(combination: dict, data_dir: str, replicas) -> dict:
    """Trains one combination and returns its row."""
    import gin
    import numpy as np

    from flexseg.config.configure import configure
    from flexseg.data.dataset import open_dataset
    from flexseg.runs.directory import RunDirectory
    from flexseg.training.assembly import Assembly
    from flexseg.training.experiment import Experiment
    from flexseg.training.precision import precision_scope
    from flexseg.training.trainer import Trainer

    gin.clear_config()
    file, params, name = bindings(combination)
    configure([file], params, modules=("flexseg.training.assembly",))
    experiment, dataset = Experiment.from_gin(), open_dataset(name, data_dir)
    losses, applied, began = [], 0, 0.0
    quarter = FLAGS.steps // 4
    with precision_scope(combination["precision"]):
        assembly = Assembly(experiment, dataset, replicas, precision=combination["precision"], xla=combination["xla"])
        trainer = Trainer(assembly, experiment, dataset, RunDirectory(os.devnull))
        batches = trainer.steps.batches()
        for number in range(FLAGS.steps):
            outcome = trainer.steps.train_step(
                next(batches), global_step=number, learning_rate=trainer.steps.learning_rate(number), total_weight=float(trainer.steps.batch_size)
            )
            losses.append(float(outcome.values[0] / outcome.values[1]))
            applied += bool(outcome.applied)
            if number % 20 == 0:
                print(f"STEP {number}", flush=True)  # keeps `watch` from counting it as a hang
            if number == quarter:
                began = time.perf_counter()
        seconds = time.perf_counter() - began
        weights = [replicas.local(v.value) for v in assembly.model.trainable_variables]
    tail = [loss for loss in losses[-quarter - 1 :] if np.isfinite(loss)]
    return combination | {
        "loss": float(np.mean(tail)) if tail else float("nan"),
        "images_per_second": (FLAGS.steps - quarter - 1) * trainer.steps.batch_size / seconds,
        "skipped": FLAGS.steps - applied,
        "last_finite": bool(np.isfinite(losses[-1])),
        "replicas_equal": all(np.array_equal(each[0].numpy(), other.numpy()) for each in weights for other in each[1:]),
        "parameters": assembly.parameters,
    }


def open_devices(count: int):
    """`count` devices of one GPU, or of the CPU."""
    import tensorflow as tf

    from flexseg.distribution.strategies import open_replicas

    if FLAGS.devices == "cpu":
        return open_replicas(global_batch_size=FLAGS.global_batch_size, logical_cpus=count)
    gpus = tf.config.list_physical_devices("GPU")[:1]
    if not gpus:
        raise SystemExit("gpu_check: expected a GPU, found none. To fix it: install the extra [gpu], or --devices=cpu to try this program")
    tf.config.set_visible_devices(gpus, "GPU")
    if count > 1:
        half = tf.config.LogicalDeviceConfiguration(memory_limit=FLAGS.gpu_memory_mib or card_memory_mib() * 45 // 100)
        tf.config.set_logical_device_configuration(gpus[0], [half] * count)
    return open_replicas(global_batch_size=FLAGS.global_batch_size, logical_gpus=count)


def card_memory_mib() -> int:
    """Memory of the smallest GPU, because nvidia-smi and TensorFlow may number GPUs differently."""
    listing = subprocess.run(["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"], capture_output=True, text=True, check=True)
    return min(int(line) for line in listing.stdout.split())


def child() -> None:
    """A process for one number of devices; prints a line of JSON for every finished combination."""
    from flexseg.commands.quiet import load_tensorflow

    load_tensorflow()
    replicas = open_devices(FLAGS.child)
    for combination in combinations(FLAGS.child):
        print("DONE " + json.dumps(measure(combination, FLAGS.data_dir, replicas)), flush=True)


def watch(devices: int, data_dir: str, deadline: float, before: list[dict]) -> tuple[list[dict], str]:
    """Runs a child: (its rows, an error in words); `before` are rows of earlier children."""
    command = [sys.executable, __file__, f"--child={devices}", f"--data_dir={data_dir}", *sys.argv[1:]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    lines: queue.Queue = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    found, last = [], []
    wanted = combinations(devices)
    heard = time.monotonic()
    try:
        while True:
            now = time.monotonic()
            if now - heard > FLAGS.silence:
                return found, f"hang: nothing for {FLAGS.silence:.0f} s in {(*wanted, 'the end of the process')[len(found)]}"
            if now > deadline:
                return found, f"left out after {FLAGS.minutes} minutes: {len(wanted) - len(found)} of {len(wanted)} on {devices} devices"
            try:
                line = lines.get(timeout=1.0)
            except queue.Empty:
                continue
            if line is None:
                break
            if line.startswith("STEP "):
                heard = now
            elif line.startswith("DONE "):
                heard = now
                found.append(json.loads(line.removeprefix("DONE ")))
                show(found[-1], [*before, *found])
            else:
                last = [*last[-15:], line.rstrip()]
    finally:
        process.kill()
        process.wait()
    if len(found) < len(wanted):
        return found, f"ended in {wanted[len(found)]}:\n" + "\n".join(last)
    return found, ""


def show(row: dict, rows: list[dict]) -> None:
    """Prints a row of the table."""
    plain = row["settings"].removesuffix("_options")
    base = next((r["loss"] for r in rows if r["settings"] == plain and r["precision"] == "float32"), None)
    against = f"{row['loss'] / base:6.3f}" if base else "     –"
    replicas = "equal" if row["replicas_equal"] else "DIFFER"
    print(
        f"{row['settings']:20} {row['devices']}  {row['precision']:15} {row['xla']:4} {row['loss']:9.4f} {against} "
        f"{row['images_per_second']:9.1f} {row['skipped']:8d}  {replicas}",
        flush=True,
    )


def main(_) -> None:
    """Runs the check."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if FLAGS.child:
        return child()
    deadline, rows, wrong = time.monotonic() + 60 * FLAGS.minutes, [], []
    with tempfile.TemporaryDirectory() as data_dir:
        build_datasets(data_dir)
        print(f"\n{'settings':20} n  {'precision':15} XLA       loss ÷ fp32  images/s  skipped  replicas")
        for devices in (1, 2):
            measured, problem = watch(devices, data_dir, deadline, rows)
            rows += measured
            wrong += [problem] if problem else []
        wrong += [f"not finite at the end: {row}" for row in rows if not row["last_finite"]]
        wrong += [f"replicas differ: {row}" for row in rows if not row["replicas_equal"]]
    print("\n" + ("\n".join(wrong) or "all combinations ran; two logical devices on one card prove nothing about NCCL"))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    app.run(main)
