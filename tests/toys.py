"""Toy folders of images and masks, and datasets built from them, for every test that needs one.

    folder = write_folder(tmp_path / "set", {"train/a": (24, 31), "valid/b": (32, 32)})     # or {"a": …} without splits
    dataset = build(tmp_path, source=folder)                                                # a BuiltDataset
    error = refusal(tmp_path, source=folder, name="a/b")                                    # the UserError; nothing may be written

Pixels are a function of (case name, size). Values of image and mask have nothing to do with each other: nothing is to be learned here.
"""

import contextlib
import io
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import gin
import numpy as np
import pytest
from PIL import Image

from flexseg.commands import build as build_command
from flexseg.errors import UserError

if TYPE_CHECKING:
    from flexseg.data.dataset import BuiltDataset

FOUR = {"train/a": (16, 16), "train/b": (12, 20), "valid/c": (16, 16), "test/d": (9, 30)}  # sound cases in three splits


def slow_unless(fast: bool, *values):
    """A parameter of a test that is slow, unless it is among the fast ones."""
    return pytest.param(*values, marks=() if fast else pytest.mark.slow)


def picture(name: str, size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """Noise, uint8 [h, w, 3] or [h, w]: no two pixels of a picture, and no two pictures, are likely to be alike."""
    return _random(name).integers(0, 256, (*size, 3) if channels == 3 else size, np.uint8)


def binary_mask(name: str, size: tuple[int, int]) -> np.ndarray:
    """A box of 255 on 0, uint8 [h, w], somewhere, a quarter to three quarters of each side."""
    random, mask = _random(name), np.zeros(size, np.uint8)
    (top, height), (left, width) = ((random.integers(0, side // 4), random.integers(side // 4, side // 2)) for side in size)
    mask[top : top + height, left : left + width] = 255
    return mask


def write_case(folder: Path, name: str, image: np.ndarray, mask: np.ndarray | Image.Image, suffix: str = ".png", **options) -> None:
    """Writes `images/x` and `masks/x.png` of case `x`, below `split/` for a name `split/x`; `options` are Pillow's, for the image."""
    split, _, stem = name.rpartition("/")
    for kind, pixels, ending in (("images", image, suffix), ("masks", mask, ".png")):
        path = folder / split / kind / f"{stem}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **(options if kind == "images" else {}))


def write_folder(folder: Path, cases: dict[str, tuple[int, int]] | Iterable[str], channels: int = 3) -> Path:
    """A source folder of PNGs with binary masks; `cases` says the (height, width) of each, else all are 16 x 16."""
    sizes = cases if isinstance(cases, dict) else dict.fromkeys(cases, (16, 16))
    for name, size in sizes.items():
        write_case(folder, name, picture(name, size, channels), binary_mask(name, size))
    return folder


def build(place: Path, *, source: Path | None, **options) -> "BuiltDataset":
    """Runs `flexseg build` in this process with `place / "data"` as its data_dir; its output is dropped and gin left clean."""
    from flexseg.data.dataset import BuiltDataset  # with TensorFlow, which tests of folders alone do without

    arguments = {"data_dir": str(place / "data"), "source": None if source is None else str(source), **options}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return BuiltDataset(Path(build_command.run(**arguments)))
    finally:
        gin.clear_config()


def snapshot(place: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below the data_dir with its inode and bytes, folders too."""
    paths = sorted((place / "data").rglob("*"))
    return {str(path.relative_to(place)): (path.stat().st_ino, path.read_bytes() if path.is_file() else b"") for path in paths}


def refusal(place: Path, **options) -> UserError:
    """Builds; it must be refused in one line, and the data_dir must be as it was."""
    before = snapshot(place)
    with pytest.raises(UserError) as caught:
        build(place, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) > 40
    assert snapshot(place) == before
    return caught.value


def pixels(dataset: "BuiltDataset", case_id: str) -> tuple[np.ndarray, np.ndarray]:
    """(image, class ids) of a case, whatever split it is in."""
    for split, table in dataset.manifest.splits.items():
        if case_id in table.case_id:
            return dataset.records(split).example(table.case_id.index(case_id))
    raise KeyError(case_id)


def groups(dataset: "BuiltDataset") -> dict[str, str]:
    return {case: group for table in dataset.manifest.splits.values() for case, group in zip(table.case_id, table.group_id, strict=True)}


def repaint(path: Path, value) -> None:
    """Changes one pixel."""
    values = np.array(Image.open(path))
    values[0, 0] = value
    Image.fromarray(values).save(path)


def _random(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))
