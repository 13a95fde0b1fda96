"""Writes a folder with the training cases and their variants, the other splits unchanged, and the groups of all.

    derive_folder(split.assign(found.cases), "derived", Derive(), source="my_folder", overwrite=False, max_pixels=150_000_000)

Variants are made after the split: a variant of a validation case in training would be a leak. `groups.csv` gives every variant the group of its
source, so that later splits keep them together. The folder is written whole or not at all. The result does not depend on the number of threads.
"""

import csv
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from flexseg.derivation.variants import Derive, Variant
from flexseg.errors import UserError
from flexseg.files.atomic import make_folder
from flexseg.files.cases import Case
from flexseg.files.images import read_mask, read_pixels
from flexseg.files.own_folder import is_own_folder, make_own_folder, remove_own_folder

COLUMNS = ("image", "group", "source", "variant")


_PARTS = ("groups.csv", "train", "valid", "test")


def derive_folder(
    assigned: Mapping[str, Sequence[Case]],
    output: str | Path,
    derive: Derive,
    *,
    source: str | Path,
    overwrite: bool,
    max_pixels: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Writes `output/{train,valid,test}/{images,masks}` and `output/groups.csv`.

    Args:
      assigned: {split: cases}, see `Split.assign`.
      output: the folder, which is made.
      derive: the variants.
      source: the folder of the cases; `output` must not be in it.
      overwrite: replace a folder that an earlier call wrote.
      max_pixels: limit on the pixels of an image, checked before decoding.
      progress: called with (cases done, all).

    Returns:
      {split: number of pairs}.

    Raises:
      UserError: the folder exists, two files would have one name, or a file cannot be read.
    """
    output = Path(output).absolute()
    _refuse_output(output, Path(source).absolute(), overwrite)
    variants, writing = derive.variants(), output.with_name(f".{output.name}.writing")
    for split, cases in assigned.items():
        _refuse_one_name_twice(cases, variants if split == "train" else [])
        _refuse_links_out_of(Path(source).absolute(), cases)
    make_folder(output.parent, flag="--output")
    make_own_folder(writing, unmarked=_PARTS)
    rows: dict[str, list[tuple]] = {}
    done, every = 0, sum(map(len, assigned.values()))
    try:
        for split, cases in assigned.items():
            for kind in ("images", "masks"):
                (writing / split / kind).mkdir(parents=True)

            def write(case: Case, split: str = split) -> list[tuple]:
                return _write_case(case, writing / split, variants if split == "train" else [], derive.seed, max_pixels)

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for found in pool.map(write, cases):
                    rows.setdefault(split, []).extend(found)
                    done += 1
                    if progress is not None:
                        progress(done, every)
        with open(writing / "groups.csv", "w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream)
            table.writerow(COLUMNS)
            table.writerows((f"{split}/images/{name}", *rest) for split, part in rows.items() for name, *rest in part)
        old = output.with_name(f".{output.name}.old")
        remove_own_folder(old, unmarked=_PARTS)
        if output.exists():
            output.rename(old)
        writing.rename(output)
        shutil.rmtree(old, ignore_errors=True)  # `_refuse_output` has seen whose it is
    except BaseException:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    return {split: len(part) for split, part in rows.items()}


def _refuse_output(output: Path, source: Path, overwrite: bool) -> None:
    """Only a folder that this module wrote may be replaced, and never one that contains the source."""
    flag, real, read = f"--output={output}", output.resolve(), source.resolve()
    if real.is_relative_to(read) or read.is_relative_to(real):
        found = "the same folder, or one within the other"
        raise UserError(flag, expected=f"a folder apart from --source={source}", found=found, cure="name another")
    if not output.exists():
        return
    ours = _is_derived(output)
    if not (overwrite and ours):
        cure = "add --overwrite, or name another --output" if ours else "name another --output"
        raise UserError(flag, expected="no such folder yet", found="one" if ours else "one that flexseg derive did not write", cure=cure)


def _refuse_links_out_of(source: Path, cases: Sequence[Case]) -> None:
    """Refuses files that lie in the source by their paths and elsewhere by a link: copies of them would hold what the source does not."""
    real = source.resolve()
    for path in (path for case in cases for path in (case.image, case.mask_path)):
        if path.absolute().is_relative_to(source) and not path.resolve().is_relative_to(real):
            cure = "give --source the folder that the link leads to, or copy the files"
            raise UserError(path, expected="a file in the source", found="a link that leads elsewhere", cure=cure)


def _is_derived(folder: Path) -> bool:
    """Whether an earlier call wrote the folder: it has the mark, or the table of those before 0.2.0 and nothing else."""
    if not is_own_folder(folder, unmarked=_PARTS):
        return False
    try:
        with open(folder / "groups.csv", newline="", encoding="utf-8") as stream:
            return tuple(next(csv.reader(stream), ())) == COLUMNS
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def _refuse_one_name_twice(cases: Sequence[Case], variants: Sequence[Variant]) -> None:
    """Refuses a case with the name of another one's variant: `hflipped_a` beside `a`."""
    taken: dict[str, str] = {}
    for case in cases:
        copies = [(f"{variant.prefix}_{case.case_id}", f"a copy of {case.case_id}") for variant in variants]
        for stem, what in [(case.case_id, f"the case {case.case_id}"), *copies]:
            if stem in taken:
                cure = "rename the case, or leave that variant out with derive.*"
                raise UserError(case.image, expected="one file of one name", found=f"{stem} for {taken[stem]} and {what}", cure=cure)
            taken[stem] = what


def _write_case(case: Case, folder: Path, variants: Sequence[Variant], seed: int, max_pixels: int) -> list[tuple]:
    """Writes the files of one case; returns rows (image name, group, source, variant)."""
    group = case.case_id if case.group is None else case.group
    names = folder / "images" / f"{case.case_id}{case.image.suffix}", folder / "masks" / f"{case.case_id}{case.mask_path.suffix}"
    image, mask = read_pixels(case.image, max_pixels=max_pixels), read_mask(case.mask_path, max_pixels=max_pixels)
    for source, target in zip((case.image, case.mask_path), names, strict=True):  # after they were read as pictures
        shutil.copyfile(source, target)
    rows = [(names[0].name, group, case.case_id, "")]
    if not variants:
        return rows
    if image.dtype not in (np.uint8, np.uint16):
        raise UserError(case.image, expected="8 or 16 bits a channel, as PNG has", found=str(image.dtype), cure="save it so")
    if image.shape[:2] != mask.shape[:2]:
        expected = f"the size of {case.image.name}, {image.shape[0]} x {image.shape[1]}"
        raise UserError(case.mask, expected=expected, found=f"{mask.shape[0]} x {mask.shape[1]}")
    for variant in variants:
        rng = np.random.default_rng(list(hashlib.sha256(f"{seed}/{case.case_id}/{variant.prefix}".encode()).digest()))
        name = f"{variant.prefix}_{case.case_id}.png"
        for kind, pixels in zip(("images", "masks"), variant.apply(image, mask, rng), strict=True):
            _write_png(folder / kind / name, pixels)
        rows.append((name, group, case.case_id, variant.prefix))
    return rows


def _write_png(path: Path, pixels: np.ndarray) -> None:
    bgr = pixels if pixels.ndim == 2 else pixels[..., ::-1]
    written, data = cv2.imencode(".png", np.ascontiguousarray(bgr))
    if not written:
        raise ValueError(f"OpenCV cannot encode {pixels.dtype} {pixels.shape}")
    path.write_bytes(data.tobytes())
