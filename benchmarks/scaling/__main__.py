"""Measure weak scaling of training on this machine, and predict it for 8 to 1,024 GPUs.

    python -m benchmarks.scaling                                                     # replicas and workers, 1, 2 and 4
    python -m benchmarks.scaling --replicas=1,2,4,8 --workers=                       # one host with 8 GPUs
    python -m benchmarks.scaling --within_gb=450 --between_gb=50 --gpus_per_host=8   # prediction for another interconnect

Each row is a run in its own processes with a constant batch per replica (weak scaling). Columns: time per step on a constant batch; time of an
all-reduce of tensors of the gradients' shapes, and its share of the step; input wait and images per second of training with the input pipeline;
efficiency, relative to one replica. GPUs are distributed to the processes; without GPUs, replicas are logical CPU devices, and --threads limits the
threads of each process. Without that limit processes share the cores, and efficiency has no meaning.

The model of benchmarks/scaling/model.py is fitted to all-reduces over two devices, and compared with the steps measured over four. The prediction
combines the compute time measured here with the given interconnect; it is arithmetic, not a measurement.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app, flags

from benchmarks.scaling.model import Link, fit, ring_seconds, step_seconds
from flexseg.commands import build
from flexseg.launch.local import free_addresses, visible_gpus

FLAGS = flags.FLAGS
flags.DEFINE_list("replicas", ["1", "2", "4"], "Numbers of replicas in one process.")
flags.DEFINE_list("workers", ["1", "2", "4"], "Numbers of processes, one replica each.")
flags.DEFINE_integer("batch_per_replica", 4, "Examples a step and replica.", lower_bound=1)
flags.DEFINE_integer("image_size", 128, "Height and width of the input in pixels.", lower_bound=32)
flags.DEFINE_integer("steps", 20, "Steps of each measurement.", lower_bound=2)
flags.DEFINE_integer("threads", 0, "Threads of each process; 0 for TensorFlow's choice.", lower_bound=0)
flags.DEFINE_string("gin_file", "default.gin", "What is trained.")
flags.DEFINE_multi_string("gin_param", [], "Bindings over it.")
flags.DEFINE_float("within_gb", 450, "GB/s that a GPU sends within a host, for the prediction (NVLink 4: 450).", lower_bound=0.001)
flags.DEFINE_float("between_gb", 50, "GB/s that a host sends to others (one 400 Gb/s card: 50).", lower_bound=0.001)
flags.DEFINE_float("within_us", 5, "Latency of a message within a host in µs.", lower_bound=0)
flags.DEFINE_float("between_us", 10, "Latency of a message between hosts in µs.", lower_bound=0)
flags.DEFINE_integer("gpus_per_host", 8, "GPUs of a host, for the prediction.", lower_bound=1)


def measure(kind: str, count: int, data_dir: str) -> dict:
    """Runs the processes of one row and returns the chief's result."""
    gpus, processes = visible_gpus(), count if kind == "workers" else 1
    if gpus and count > len(gpus):
        raise SystemExit(f"scaling: expected at most the {len(gpus)} visible GPUs, found --{kind}={count}")
    addresses = free_addresses(processes) if processes > 1 else []
    params = [
        f"train.global_batch_size={count * FLAGS.batch_per_replica}", f"input.image_size=({FLAGS.image_size},{FLAGS.image_size})", *FLAGS.gin_param,
    ]  # fmt: skip
    running = []
    for worker in range(processes):
        task = {
            "gin_file": FLAGS.gin_file, "gin_param": params, "data_dir": data_dir, "steps": FLAGS.steps, "workers": addresses,
            "worker": worker if addresses else None, "replicas": 0 if addresses or not gpus else count,
            "logical_cpus": 0 if addresses or gpus or count == 1 else count,
        }  # fmt: skip
        environment = dict(os.environ)
        if gpus and addresses:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[worker]
        if FLAGS.threads:
            environment |= {name: str(FLAGS.threads) for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")}
        command = [sys.executable, "-m", "benchmarks.scaling.measure", json.dumps(task)]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    said = [process.communicate() for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"scaling: {kind} {count} ended with {[process.returncode for process in running]}:\n{said[0][0]}\n{said[0][1][-3000:]}")
    return json.loads(next(line for line in said[0][0].splitlines() if line.startswith("RESULT ")).removeprefix("RESULT "))


def show(kind: str, count: int, row: dict, one: dict) -> None:
    """Prints a row of the table."""
    efficiency = row["images_per_second"] / (count * one["images_per_second"])
    share = row["all_reduce"] / row["step"] if count > 1 else 0.0
    print(
        f"{kind:9} {count:2} {1000 * row['step']:9.1f} {1000 * row['all_reduce'] if count > 1 else 0:12.2f} {share:7.1%} {row['input_wait']:10.1%} "
        f"{row['images_per_second']:10.1f} {efficiency:11.1%}",
        flush=True,
    )


def compare(kind: str, rows: dict[int, dict]) -> None:
    """Compares the model, fitted to two devices, with the measurements."""
    if 2 not in rows or len(rows[2]["links"]) < 2:
        return
    link = fit(rows[2]["links"], count=2)
    print(f"\n{kind}: link fitted to two: {link.bandwidth / 1e9:.2f} GB/s, {link.latency * 1e6:.0f} µs a message")
    cores = os.cpu_count()
    for count, row in rows.items():
        if count < 2:
            continue
        own = 4 * row["parameters"]
        # Without GPUs the devices compete: replicas for the threads of their process, workers for the cores. That is no cost of the link.
        turns = 1.0 if row["device"] == "GPU" else count if kind == "replicas" else max(1.0, count * (FLAGS.threads or cores) / cores)
        predicted = turns * rows[1]["step"] + ring_seconds(own, count, link)
        print(
            f"  {count} {kind}: all-reduce of {own / 2**20:.1f} MiB {1000 * ring_seconds(own, count, link):.2f} ms, measured "
            f"{1000 * row['all_reduce']:.2f}; step {1000 * predicted:.1f} ms, measured {1000 * row['step']:.1f} ({predicted / row['step'] - 1:+.0%})"
        )


def predict(one: dict) -> None:
    """Prints the prediction for many GPUs."""
    within, between = Link(FLAGS.within_gb * 1e9, FLAGS.within_us * 1e-6), Link(FLAGS.between_gb * 1e9, FLAGS.between_us * 1e-6)
    print(
        f"\npredicted from {1000 * one['step']:.1f} ms a step on one {one['device']} and {4 * one['parameters'] / 2**20:.1f} MiB of gradients: "
        f"{FLAGS.within_gb:g} GB/s within a host of {FLAGS.gpus_per_host}, {FLAGS.between_gb:g} GB/s between hosts\n  GPUs  step ms  efficiency"
    )
    for count in (8, 16, 32, 64, 128, 256, 512, 1024):
        if count > FLAGS.gpus_per_host and count % FLAGS.gpus_per_host:
            continue
        step = step_seconds(
            count, parameter_bytes=4 * one["parameters"], compute=one["step"], within=within, between=between, gpus_per_host=FLAGS.gpus_per_host
        )
        print(f"{count:6} {1000 * step:8.2f} {one['step'] / step:10.1%}")


def main(_) -> None:
    """Runs the benchmark."""
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {len(visible_gpus())} GPUs visible"
    print(f"{machine}; {FLAGS.gin_file} {' '.join(FLAGS.gin_param)}")
    measured: dict[str, dict[int, dict]] = {}
    with tempfile.TemporaryDirectory() as data_dir:
        size = f"synthetic_nuclei.image_size=({FLAGS.image_size},{FLAGS.image_size})"
        with contextlib.redirect_stdout(None):  # hides the output of the build
            build.run(dataset="synthetic_nuclei", data_dir=data_dir, gin_param=[size, "synthetic_nuclei.slides=(2,1,0)"])
        print("\n           n   step ms  all-reduce ms   share input wait   images/s  efficiency")
        for kind in ("replicas", "workers"):
            measured[kind] = {}
            for count in sorted(int(number) for number in getattr(FLAGS, kind)):
                measured[kind][count] = row = measure(kind, count, str(Path(data_dir)))
                show(kind, count, row, measured[kind].get(1, row))
    for kind, rows in measured.items():
        compare(kind, rows)
    ones = [rows[1] for rows in measured.values() if 1 in rows]
    if ones:
        predict(ones[0])


if __name__ == "__main__":
    app.run(main)
