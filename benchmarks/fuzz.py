"""Feed damaged files to every reader of received data: each must end with a UserError or with a result, within time and memory.

Usage:
    python benchmarks/fuzz.py --seconds=3600                       # all readers in turn; prints the seed of every finding
    python benchmarks/fuzz.py --reader=manifest --seed=7 --keep=found

Valid files are made by code and changed at random: bits, numbers, pieces cut, doubled, moved or taken from another file. A finding is an exception
that is no UserError, or more than 10 s. The process may take 8 GiB of address space, and prints its peak.
"""

import argparse
import json
import random
import resource
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from flexseg.errors import UserError

SECONDS, BYTES = 10.0, 2**30
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

Reader = Callable[[Path], object]


def samples(folder: Path) -> dict[str, tuple[list[Path], Reader]]:
    """{reader: (valid files, function that reads one)}."""
    from flexseg.commands.quiet import hide_gpus, load_tensorflow

    hide_gpus()
    load_tensorflow()  # which the readers of archives import
    from flexseg.datasets.archives import unpacked
    from flexseg.files.arrays import read_array
    from flexseg.files.csv_log import read_rows
    from flexseg.files.groups import find_groups
    from flexseg.files.images import read_mask, read_pixels
    from flexseg.files.label_map import LabelMap
    from flexseg.files.manifest import Manifest, tfrecord_offsets
    from flexseg.migration.reference_config import import_config
    from flexseg.runs.checkpoint_format import read_checkpoint
    from flexseg.runs.directory import RunDirectory

    pixels = np.random.default_rng(0).integers(0, 255, (24, 31, 3), np.uint8)
    images = [folder / name for name in ("a.png", "b.jpg", "c.bmp", "d.tif", "e16.png", "f16.tif", "g_palette.png")]
    for path, content in zip(images[:4], [pixels, pixels, pixels, pixels[..., 0]], strict=True):
        Image.fromarray(content).save(path)
    for path in images[4:6]:
        cv2.imwrite(str(path), pixels[..., 0].astype(np.uint16) * 200)
    Image.fromarray(pixels).quantize(8).save(images[6])
    arrays = [folder / name for name in ("v.npy", "w.npz")]
    np.save(arrays[0], pixels)
    np.savez_compressed(arrays[1], volume=pixels)
    texts = {
        "groups.csv": "image,group\na.png,one\nb.jpg,two\n",
        "log.csv": "epoch,loss\n1,0.5\n2,0.25\n",
        "old.config": "[train]\nepochs = 3\nloss = 'bce_dice_loss'\n[model]\nbase_filters = 16\n[augmentor]\nangles = [90, 180]\n",
        "table.json": json.dumps(LabelMap(values={0: 0, 255: 1}).to_json()),
        "environment.json": json.dumps({
            "precision": "float32", "dataset": "a", "dataset_directory": "/a", "global_batch_size": 4, "onednn": True,
            "user_modules": {"m": [{"file": "m.py", "sha256": "0"}]},
        }),
        "manifest.json": json.dumps(_manifest()),
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text)
    archive = folder / "set.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in images[:2]:
            file.write(path, f"images/{path.name}")
    weights, records = folder / "model.npz", folder / "r.tfrecord"
    np.savez(weights, **{"0000 a/kernel": pixels.astype(np.float32), "0001 a/bias": np.zeros(3, np.float32)})
    records.write_bytes(bytes.fromhex("0300000000000000") + _crc(3) + b"abc" + bytes(4))

    def checkpoint(path: Path) -> object:
        import hashlib

        whole = path.parent / "checkpoint"
        whole.mkdir(exist_ok=True)
        (whole / "model.npz").write_bytes(path.read_bytes())
        (whole / "facts.json").write_text('{"epoch": 1}')
        names = ("facts.json", "model.npz")
        (whole / "SHA256SUMS").write_text("".join(f"{hashlib.sha256((whole / name).read_bytes()).hexdigest()}  {name}\n" for name in names))
        return read_checkpoint(whole)

    def environment(path: Path) -> object:
        run = RunDirectory(path.parent / "run")
        run.path.mkdir(exist_ok=True)
        run.environment.write_bytes(path.read_bytes())
        return run.read_environment()

    def table(path: Path) -> object:
        try:
            return LabelMap.from_json(json.loads(path.read_text()))
        except (ValueError, RecursionError):  # JSON is read elsewhere
            return None

    def groups(path: Path) -> object:
        place = path.parent / "grouped"
        place.mkdir(exist_ok=True)
        (place / "groups.csv").write_bytes(path.read_bytes())
        return find_groups(place, [("a", place / "images/a.png"), ("b", place / "images/b.jpg")], pattern=None)

    def log(path: Path) -> object:
        try:
            return read_rows(path)
        except UnicodeDecodeError:  # a run's own file: the trainer says that it is none
            return None

    return {
        "image": (images, lambda path: read_pixels(path, max_pixels=10_000_000)),
        "mask": (images, lambda path: read_mask(path, max_pixels=10_000_000)),
        "array": (arrays, lambda path: read_array(path, max_values=10_000_000)),
        "manifest": ([folder / "manifest.json"], Manifest.load),
        "label_map": ([folder / "table.json"], table),
        "environment": ([folder / "environment.json"], environment),
        "weights": ([weights], checkpoint),
        "records": ([records], tfrecord_offsets),
        "groups": ([folder / "groups.csv"], groups),
        "log": ([folder / "log.csv"], log),
        "reference_config": ([folder / "old.config"], import_config),
        "archive": ([archive], lambda path: unpacked(path, flag="--source")),
    }


def _crc(length: int) -> bytes:
    from flexseg.files.manifest import _masked_crc

    return _masked_crc(length.to_bytes(8, "little")).to_bytes(4, "little")


def _manifest() -> dict:
    columns = {
        "case_id": ["a", "b"],
        "group_id": ["g", "g"],
        "shard": [0, 0],
        "offset": [0, 100],
        "length": [84, 84],
        "height": [5, 5],
        "width": [7, 7],
    }
    table = {"files": ["a-00000-of-00001.tfrecord"], **columns, "image_sha256": ["", ""], "mask_sha256": ["", ""]}
    facts = {"window": [0.0, 4095.0], "converted": 0, "leaked": False, "split": {"seed": 0}, "fingerprint": "", "storage": "as_is"}
    counts = {"class_pixels": {"train": {"a": 1}}, "empty_masks": {"train": 0}, "label_map": {}}
    return {"schema": 1, "dataset": "a", "version": "1.0.0", "channels": 3, **facts, **counts, "splits": {"train": table}}


def damaged(data: bytes, other: bytes, draw: random.Random) -> bytes:
    """A few random edits of `data`."""
    content = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        place, size = draw.randrange(len(content) + 1), draw.choice((1, 2, 4, 8, 64))
        how = draw.randrange(8)
        if how == 0 and content:
            content[place % len(content)] ^= 1 << draw.randrange(8)
        elif how == 1:
            content[place : place + size] = draw.choice(_INTERESTING).to_bytes(8, draw.choice(("little", "big")))[: draw.choice((1, 2, 4, 8))]
        elif how == 2:
            del content[place : place + size]
        elif how == 3:
            content[place:place] = content[place : place + size]
        elif how == 4:
            del content[place:]
        elif how == 5:
            start = draw.randrange(len(other) + 1)
            content[place : place + size] = other[start : start + size]
        elif how == 6:
            content[place:place] = draw.choice(
                (b"[" * 3000, b"9" * 5000, b"\x00" * 64, b'"', b"\xff\xfe", b"-1", b"1e999", b"../../x", b"\n", b"null")
            )
        else:
            content[place : place + size] = draw.randbytes(size)
    return bytes(content)


def main() -> int:
    """Runs, prints findings and a table, and returns 1 where there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--reader", help="one of them; default all")
    parser.add_argument("--seed", type=int, help="of one file; default all from 0")
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (8 * BYTES, 8 * BYTES))  # what would fill the machine ends here
    found: Counter = Counter()
    tried: Counter = Counter()
    with tempfile.TemporaryDirectory() as place:
        readers = samples(Path(place))
        chosen = [given.reader] if given.reader else list(readers)
        began, seed = time.monotonic(), given.seed or 0
        while time.monotonic() - began < given.seconds:
            for name in chosen:
                files, read = readers[name]
                draw = random.Random(f"{name} {seed}")
                path, other = draw.choice(files), draw.choice(files)
                target = path.with_name(f"damaged{path.suffix}")
                target.write_bytes(damaged(path.read_bytes(), other.read_bytes(), draw))
                started, wrong = time.monotonic(), ""
                try:
                    read(target)
                except UserError:
                    pass
                except Exception as error:
                    wrong = f"{type(error).__name__}: {error}\n{''.join(traceback.format_tb(error.__traceback__)[-2:])}"
                if time.monotonic() - started > SECONDS:
                    wrong = wrong or f"{time.monotonic() - started:.0f} s"
                tried[name] += 1
                if wrong:
                    found[name] += 1
                    print(f"{name} --seed={seed}: {wrong}", flush=True)
                    if given.keep:
                        given.keep.mkdir(parents=True, exist_ok=True)
                        (given.keep / f"{name}_{seed}{path.suffix}").write_bytes(target.read_bytes())
            if given.seed is not None:
                break
            seed += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print("".join(f"{name:<18} {tried[name]:>8} files, {found[name]} findings\n" for name in chosen) + f"peak memory {peak:.2f} GiB")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
