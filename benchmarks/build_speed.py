"""Measure time and memory of `flexseg build`, in process and with Apache Beam, and the size and read speed of each storage.

    python benchmarks/build_speed.py --images=100000                          # in process
    python benchmarks/build_speed.py --images=2000 --beam                     # and Beam's DirectRunner, one worker and two
    python benchmarks/build_speed.py --images=2000 --storage                  # size and read speed of each storage

Pairs of 256 × 256 pixels: 200 different images under --images names (each name is read, checked, hashed and written). Memory is the peak of the
process and its children, sampled ten times a second.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import psutil

DIFFERENT = 200
SIDE = 256


def write_pairs(folder: Path, pairs: int) -> None:
    """Writes smooth coloured images with grain, and masks of discs; files beyond DIFFERENT are hard links."""
    y, x = np.mgrid[:SIDE, :SIDE]
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(pairs):
        files = [folder / kind / f"{number:06d}.png" for kind in ("images", "masks")]
        if number >= DIFFERENT:
            for kind, file in zip(("images", "masks"), files, strict=True):
                os.link(folder / kind / f"{number % DIFFERENT:06d}.png", file)
            continue
        rng = np.random.default_rng(number)
        picture = cv2.resize(rng.integers(0, 220, (9, 9, 3), np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(files[0]), cv2.add(picture, rng.integers(0, 20, (SIDE, SIDE, 3), np.uint8)))
        center, radius = rng.integers(60, 200, 2), rng.integers(10, 50)
        disc = np.where((y - center[0]) ** 2 + (x - center[1]) ** 2 < radius**2, 255, 0)
        cv2.imwrite(str(files[1]), disc.astype(np.uint8))


def run(place: Path, name: str, *flags: str) -> tuple[float, float]:
    """Builds; returns (seconds, peak GiB)."""
    words = [sys.executable, "-m", "flexseg.commands.dispatcher", "build", f"--source={place}/set", f"--data_dir={place}/data", f"--name={name}"]
    began, most = time.monotonic(), 0
    process = psutil.Popen([*words, *flags], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        used = 0
        for each in (process, *process.children(recursive=True)):
            try:
                used += each.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        most = max(most, used)
        time.sleep(0.1)
    if process.returncode:
        sys.exit(f"flexseg build ended with {process.returncode}")
    return time.monotonic() - began, most / 2**30


READ = """
import sys, time
from flexseg.commands.quiet import load_tensorflow
load_tensorflow()
from flexseg.data.augmentation import Augment
from flexseg.data.dataset import open_dataset
from flexseg.data.settings import InputSettings
from flexseg.data.stream import Stream
records = open_dataset(sys.argv[1], sys.argv[2]).records("train")
stream = Stream(records, inputs=InputSettings(image_size=(256, 256)), augment=Augment(enabled=False), background=0, seed=0, global_batch_size=16)
batches = iter(stream.batches(0, replicas=1))
for _ in range(20):
    next(batches)
best = 0.0
for _ in range(5):
    began = time.perf_counter()
    for _ in range(60):
        next(batches)
    best = max(best, 60 * 16 / (time.perf_counter() - began))
print(best)
"""


def read_speed(place: Path, name: str) -> float:
    """Images per second of the training input (read, decode, batch); the best of five."""
    done = subprocess.run([sys.executable, "-c", READ, name, f"{place}/data"], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Parses the flags and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--beam", action="store_true")
    parser.add_argument("--storage", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_pairs(place / "set", given.images)
        ways = {"in process": ()}
        if given.beam:
            ways["DirectRunner, one worker"] = ("--beam_runner=DirectRunner",)
            two = ("--beam_option=--direct_num_workers=2", "--beam_option=--direct_running_mode=multi_processing")
            ways["DirectRunner, two processes"] = ("--beam_runner=DirectRunner", *two)
        if given.storage:
            ways = {storage: (f"--storage={storage}",) for storage in ("as_is", "png", "jpeg", "raw")}
        for number, (way, flags) in enumerate(ways.items()):
            seconds, memory = run(place, f"d{number}", *flags)
            (manifest,) = place.glob(f"data/*/d{number}/*/manifest.json")
            size = sum(path.stat().st_size for path in manifest.parent.glob("*tfrecord*"))
            cases = sum(len(split["case_id"]) for split in json.loads(manifest.read_text())["splits"].values())
            row = f"{way}: {cases} pairs in {seconds:.0f} s, {cases / seconds:.0f} a second, {memory:.2f} GiB at most, {size / 2**20:.0f} MiB"
            print(row + (f", read at {read_speed(place, f'd{number}'):.0f} images a second" if given.storage else ""), flush=True)


if __name__ == "__main__":
    main()
