"""Measure time and memory of `flexseg check` on a folder of generated pairs of 512 × 512 pixels.

Usage:
    python benchmarks/check_speed.py --pairs=5000        # 10,000 files
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np


def write_pairs(folder: Path, pairs: int) -> None:
    """Writes different smooth coloured images with grain, and masks of discs."""
    y, x = np.mgrid[:512, :512]
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(pairs):
        rng = np.random.default_rng(number)
        picture = cv2.resize(rng.integers(0, 220, (9, 9, 3), np.uint8), (512, 512), interpolation=cv2.INTER_CUBIC)
        picture = cv2.add(picture, cv2.resize(rng.integers(0, 30, (128, 128, 3), np.uint8), (512, 512), interpolation=cv2.INTER_NEAREST))
        cv2.imwrite(str(folder / "images" / f"{number:05d}.png"), picture)
        center, radius = rng.integers(100, 400, 2), rng.integers(20, 90)
        disc = np.where((y - center[0]) ** 2 + (x - center[1]) ** 2 < radius**2, 255, 0)
        cv2.imwrite(str(folder / "masks" / f"{number:05d}.png"), disc.astype(np.uint8))


def main() -> None:
    """Parses the flags and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5000)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as place:
        write_pairs(Path(place) / "set", pairs)
        size = sum(path.stat().st_size for path in Path(place).rglob("*.png"))
        began = time.monotonic()
        words = [sys.executable, "-m", "flexseg.commands.dispatcher", "check", f"--source={place}/set", f"--output={place}/out"]
        code = subprocess.run(words, stdout=subprocess.DEVNULL).returncode
        seconds, memory = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        print(f"{2 * pairs} files, {size / 2**20:.0f} MiB: {seconds:.0f} s, {memory:.2f} GiB at most, exit code {code}")


if __name__ == "__main__":
    main()
