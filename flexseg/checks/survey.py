"""Survey: reads every file of a source and records problems instead of raising them.

    for entry in survey(found.cases, label_map=None, max_pixels=150_000_000):
        entry.problem, entry.height, entry.colors, entry.likeness

A few images are in memory at a time, and some hundred bytes and a thumbnail for each case.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from flexseg.checks.likeness import Fingerprint, fingerprint
from flexseg.errors import UserError
from flexseg.files.case_files import in_threads, refuse_other_size, sha256
from flexseg.files.cases import Case
from flexseg.files.headers import Header, read_header
from flexseg.files.images import read_mask, read_pixels
from flexseg.files.label_map import LabelMap, count_colors

MOST_COLORS = 64  # per mask; the most frequent ones


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surveyed:
    """The survey of one case.

    Attributes:
      case: its files.
      problem: the reason why it cannot be built; empty if it can.
      height, width, mode, bits: of the image; 0 and "" where it cannot be read.
      image_sha256, mask_sha256: of the files, hex.
      colors: {colour, or grey value: pixels} of the mask, at most MOST_COLORS.
      more_colors: number of further colours.
      pixels: of the mask.
      class_pixels: {class id: pixels} of the mask, 255 = ignore; None where no LabelMap was given.
      likeness: fingerprint of the image; None where it cannot be read.
    """

    case: Case
    problem: str = ""
    height: int = 0
    width: int = 0
    mode: str = ""
    bits: int = 0
    image_sha256: str = ""
    mask_sha256: str = ""
    colors: dict = dataclasses.field(default_factory=dict)
    more_colors: int = 0
    pixels: int = 0
    class_pixels: dict[int, int] | None = None
    likeness: Fingerprint | None = None


def survey(cases: Sequence[Case], *, label_map: LabelMap | None, max_pixels: int) -> Iterator[Surveyed]:
    """Yields the survey of each case, in order.

    Args:
      cases: with masks.
      label_map: checks every mask; None where it is not known yet.
      max_pixels: limit on the pixels of an image, checked before decoding.
    """
    return in_threads(lambda case: _look(case, label_map, max_pixels), cases)


def _look(case: Case, label_map: LabelMap | None, max_pixels: int) -> Surveyed:
    found: dict = {"case": case}
    problems = []
    for kind in ("image", "mask"):
        try:
            found |= _image(case.image, max_pixels) if kind == "image" else _mask(case.mask_path, label_map, max_pixels)
        except UserError as error:
            problems.append(str(error))
    if not problems:
        try:
            refuse_other_size(case, (found["height"], found["width"]), found["mask_size"])
        except UserError as error:
            problems.append(str(error))
    found.pop("mask_size", None)
    return Surveyed(**found, problem=" ".join(problems))


def _image(path: Path, max_pixels: int) -> dict:
    header: Header = read_header(path, max_pixels=max_pixels)
    pixels = read_pixels(path, max_pixels=max_pixels)
    facts = {"height": header.height, "width": header.width, "mode": header.mode + " alpha" * header.has_alpha, "bits": header.bits}
    return facts | {"image_sha256": sha256(path), "likeness": fingerprint(pixels)}


def _mask(path: Path, label_map: LabelMap | None, max_pixels: int) -> dict:
    mask, class_pixels = read_mask(path, max_pixels=max_pixels), None
    if label_map is not None:
        class_pixels = count_colors(label_map.encode(mask, path))
    counts = Counter(count_colors(mask))
    kept = dict(counts.most_common(MOST_COLORS))
    more = len(counts) - len(kept)
    facts = {"colors": kept, "more_colors": more, "pixels": mask.shape[0] * mask.shape[1], "class_pixels": class_pixels}
    return facts | {"mask_sha256": sha256(path), "mask_size": mask.shape[:2]}
