"""Helpers for checks of all cases: a thread pool, file hashes, the size of a mask.

Usage:
    for finding in in_threads(check, cases): ...             # in order; a few cases are in memory at a time
    refuse_other_size(case, image_size, mask_size)
    sha256(case.image)
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from flexseg.errors import UserError
from flexseg.files.cases import Case

_MOST_THREADS = 16
_AHEAD = 4  # cases per thread; `map` alone would decode far ahead of a slow consumer

Found = TypeVar("Found")


def in_threads(look: Callable[[Case], Found], cases: Sequence[Case]) -> Iterator[Found]:
    """Yields `look(case)` of each case, in order. Decoders release the GIL, so threads help."""
    workers = min(os.cpu_count() or 1, _MOST_THREADS)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(cases), _AHEAD * workers):
            yield from pool.map(look, cases[start : start + _AHEAD * workers])


def refuse_other_size(case: Case, image_size: tuple[int, int], mask_size: tuple[int, int]) -> None:
    """Raises a UserError if (height, width) of image and mask differ."""
    if image_size != mask_size:
        raise UserError(
            case.mask,
            expected=f"the size of {case.image.name}, {image_size[0]} x {image_size[1]} (height x width)",
            found=f"{mask_size[0]} x {mask_size[1]}",
            cure="give the two one size, or take them out of the folder.",
        )


def sha256(path: Path) -> str:
    """The SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
