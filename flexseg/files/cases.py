"""Finds cases: pairs images and masks of a folder by file name.

    found = discover("my_set", mask_pattern="{case}_mask")
    for case in found.cases:        # sorted by case_id
        print(case.case_id, case.image, case.mask, case.group, case.split)

Two layouts: `images/` + `masks/`, or `train/`, `valid/` (also `val/`, `validation/`), `test/`, each with `images/` and `masks/`.
An image and a mask are a pair when their stems are equal after the patterns are removed, never by position. The id of a case is its stem, or
`split_stem` where two splits hold that stem. Without groups, two files of one stem count as one image (the stem is the group), so `Split` reports a
leak; if they are different images, rows such as `train/images/a.png` in `groups.csv` give them different groups.

No file is opened; `inventory.py` checks the contents. Links to files are followed, sub-folders are not searched.
"""

import dataclasses
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import TypedDict, cast

from flexseg.errors import UserError
from flexseg.files.arrays import array_ending
from flexseg.files.groups import find_groups, some
from flexseg.files.images import IMAGE_SUFFIXES
from flexseg.files.names import unusable

SPLITS = ("train", "valid", "test")
_SPLIT_FOLDERS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
_LAYOUTS = "images/ and masks/, or train/, valid/ and test/ each with images/ and masks/"
# Common formats that flexseg does not read: skipped with a warning.
_OTHER_IMAGES = frozenset(
    [
        ".gif",
        ".webp",
        ".jp2",
        ".heic",
        ".avif",
        ".ppm",
        ".pgm",
        ".exr",
        ".npy",
        ".npz",
        ".h5",
        ".dcm",
        ".nii",
        ".gz",
        ".nrrd",
        ".mha",
        ".svs",
        ".ndpi",
        ".czi",
        ".lif",
        ".nd2",
    ]
)
_AFFIXES = ("{case}", "{case}_img", "{case}_image", "{case}-img", "img_{case}", "image_{case}", "img{case}")
_Pairs = dict[str, tuple[Path, Path | None]]  # {stem: (image, mask)}


@dataclasses.dataclass(frozen=True)
class Case:
    """One image with its mask.

    Attributes:
      case_id: unique in the dataset; names the case in reports and predictions.
      image: the image file.
      mask: the mask file; None where masks were not requested.
      group: patient, slide or tile; the stem where groups are not known.
      split: `train`, `valid` or `test` where the folder has splits, else None.
    """

    case_id: str
    image: Path
    mask: Path | None
    group: str | None = None
    split: str | None = None

    @property
    def mask_path(self) -> Path:
        """`mask`; a ValueError where it is None."""
        if self.mask is None:
            raise ValueError(f"{self.image} comes without a mask")
        return self.mask


class Patterns(TypedDict, total=False):
    """Keyword arguments of `discover` that describe file names and groups."""

    image_pattern: str
    mask_pattern: str
    group_pattern: str
    group_column: str


def named(**patterns: str | None) -> Patterns:
    """The patterns that are not None."""
    return cast(Patterns, {name: pattern for name, pattern in patterns.items() if pattern is not None})


@dataclasses.dataclass(frozen=True)
class Discovery:
    """The `cases` of a folder, sorted by case_id, and `warnings` for the user, one sentence each."""

    cases: list[Case]
    warnings: list[str]


def discover(
    source: str | Path,
    *,
    image_pattern: str | None = None,
    mask_pattern: str | None = None,
    group_pattern: str | None = None,
    group_column: str = "group",
    arrays: bool = False,
) -> Discovery:
    """Finds the cases of a source folder.

    Args:
      source: a folder in one of the two layouts.
      image_pattern, mask_pattern: the stems of images and masks, literal except for `{case}`, e.g. `{case}_mask`.
      group_pattern: see `groups.find_groups`; `group_column` likewise.
      arrays: accept array files too (see arrays.py).

    Raises:
      UserError: no such folder or layout, no images, two files of one stem, an image without a mask or the reverse, unusable names or groups.
    """
    source = Path(source)
    found: list[tuple[str | None, str, Path, Path | None]] = []
    warnings: list[str] = []
    for split, images, masks in _folders(source):
        pairs, notes = _pair(images, masks, image_pattern, mask_pattern, arrays=arrays)
        found += [(split, stem, image, mask) for stem, (image, mask) in pairs.items()]
        warnings += notes
    often = Counter(stem for _, stem, _, _ in found)
    cases = [Case(stem if often[stem] == 1 else f"{split}_{stem}", image, mask, stem, split) for split, stem, image, mask in found]
    _refuse_equal_ids(source, cases)
    groups, notes = find_groups(source, [(stem, image) for _, stem, image, _ in found], pattern=group_pattern, column=group_column)
    cases = [dataclasses.replace(case, group=group) for case, group in zip(cases, groups, strict=True)] if groups else cases
    warnings += notes
    return Discovery(sorted(cases, key=lambda case: case.case_id), warnings)


def discover_pairs(
    images: str | Path, masks: str | Path | None = None, *, image_pattern: str | None = None, mask_pattern: str | None = None
) -> Discovery:
    """Like `discover`, for a folder of images and an optional folder of masks at any path (previews, prediction)."""
    images, masks = Path(images), None if masks is None else Path(masks)
    for folder in (images,) if masks is None else (images, masks):
        _require_folder(folder)
    pairs, warnings = _pair(images, masks, image_pattern, mask_pattern)
    return Discovery([Case(stem, image, mask, stem) for stem, (image, mask) in sorted(pairs.items())], warnings)


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing of that name"
        raise UserError(folder, expected="a folder with images", found=found, cure="check the path.")


def _folders(source: Path) -> list[tuple[str | None, Path, Path]]:
    """(split, images, masks) of every folder that holds cases."""
    _require_folder(source)
    inside = sorted(entry.name + "/" * entry.is_dir() for entry in source.iterdir() if not entry.name.startswith("."))
    splits = [(split, source / name) for name, split in _SPLIT_FOLDERS.items() if f"{name}/" in inside]
    flat = "images/" in inside
    if flat and splits:
        raise UserError(source, expected=f"one layout ({_LAYOUTS})", found=f"images/ beside {splits[0][1].name}/", cure="move one of them away.")
    if len({split for split, _ in splits}) < len(splits):
        twice = " and ".join(f"{folder.name}/" for split, folder in splits if split == "valid")
        raise UserError(source, expected="one folder for each split", found=twice, cure="move one of them away.")
    if not flat and not splits:
        raise UserError(source, expected=_LAYOUTS, found=some(inside) or "an empty folder", cure="lay the files out so, with these names.")
    found = [(split, folder / "images", folder / "masks") for split, folder in ([(None, source)] if flat else splits)]
    for _, *folders in found:
        for folder in folders:
            if not folder.is_dir():
                raise UserError(folder.parent, expected=_LAYOUTS, found=f"no folder {folder.name}/", cure=f"put the {folder.name} into {folder}.")
    return found


def _pair(images: Path, masks: Path | None, image_pattern: str | None, mask_pattern: str | None, *, arrays: bool = False) -> tuple[_Pairs, list[str]]:
    """({stem: (image, mask)}, warnings) of two folders."""
    pictures, warnings = _stems(images, image_pattern, "--image_pattern", arrays)
    if masks is None:
        return {stem: (path, None) for stem, path in pictures.items()}, warnings
    truths, notes = _stems(masks, mask_pattern, "--mask_pattern", arrays)
    without_mask, without_image = sorted(pictures.keys() - truths.keys()), sorted(truths.keys() - pictures.keys())
    cure = _related(without_mask, without_image) if image_pattern is mask_pattern is None else ""
    if without_mask:
        raise UserError(
            images,
            expected=f"a mask of the same stem in {masks} for every image",
            found=f"{len(without_mask)} of {len(pictures)} images without one: {some(pictures[stem].name for stem in without_mask)}",
            cure=cure
            or "add the masks or take the images away; where masks are named otherwise, name the pattern, e.g. --mask_pattern='{case}_mask'.",
        )
    if without_image:
        raise UserError(
            masks,
            expected=f"an image of the same stem in {images} for every mask",
            found=f"{len(without_image)} of {len(truths)} masks without one: {some(truths[stem].name for stem in without_image)}",
            cure="add the images or take the masks away.",
        )
    return {stem: (path, truths[stem]) for stem, path in pictures.items()}, warnings + notes


def _stems(folder: Path, pattern: str | None, flag: str, arrays: bool) -> tuple[dict[str, Path], list[str]]:
    """{stem without the pattern: file} of the images of a folder, and warnings about files that were skipped."""
    regex = _compile("{case}" if pattern is None else pattern, flag)
    files: dict[str, Path] = {}
    others: Counter[str] = Counter()
    unmatched = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or not entry.is_file():
            continue
        ending = (arrays and array_ending(entry)) or (entry.suffix if entry.suffix.lower() in IMAGE_SUFFIXES else "")
        if not ending:
            if entry.suffix.lower() in _OTHER_IMAGES:
                others[entry.suffix.lower()] += 1
        elif match := regex.fullmatch(entry.name[: -len(ending)]):
            stem = _checked(match[1], entry)
            if stem in files:
                both = f"{files[stem].name} and {entry.name}"
                raise UserError(folder, expected="one file of each stem", found=both, cure="rename or remove one of them.")
            files[stem] = entry
        else:
            unmatched.append(entry.name)
    left_out = [f"{folder}: {count} {suffix} files left out, a format that flexseg does not read" for suffix, count in sorted(others.items())]
    if unmatched:
        left_out.append(f"{folder}: {len(unmatched)} files left out whose stem is not like {flag}={pattern!r}: {some(unmatched)}")
    if not files:
        raise UserError(
            folder,
            expected=f"images ({', '.join(sorted(IMAGE_SUFFIXES))})",
            found="; ".join(left_out) or "none",
            cure=f"check the path{' and ' + flag if unmatched else ''}.",
        )
    return files, left_out


def _compile(pattern: str, flag: str) -> re.Pattern:
    ending = Path(pattern).suffix.lower()
    if pattern.count("{case}") != 1 or "/" in pattern or ending in IMAGE_SUFFIXES:
        raise UserError(
            flag,
            expected="a stem with {case} in it once, without folder and ending",
            found=repr(pattern),
            cure=f"for example {flag}='{{case}}_mask'.",
        )
    before, after = pattern.split("{case}")
    return re.compile(re.escape(before) + "(.+)" + re.escape(after), re.DOTALL)


def _checked(stem: str, path: Path) -> str:
    """Returns the stem if it is valid as case id: a file name on every system and a text feature of TFRecords."""
    if "\\" in stem or not stem.isprintable() or unusable(stem):  # not printable are the surrogates of names that are not UTF-8, too
        raise UserError(
            repr(str(path)),
            expected="a name in UTF-8 of at most 200 bytes, without backslash and control characters",
            found=repr(stem),
            cure="rename the file.",
        )
    return stem


def _refuse_equal_ids(source: Path, cases: list[Case]) -> None:
    by_id: dict[str, Case] = {}
    for case in cases:
        other = by_id.setdefault(case.case_id, case)
        if other is not case:
            both = f"{other.image.relative_to(source)} and {case.image.relative_to(source)}, both {case.case_id!r}"
            raise UserError(source, expected="one case of each name", found=both, cure="rename one of them.")


def _related(images: list[str], masks: list[str]) -> str:
    """The flags that would pair most of the unpaired stems; empty if there are none."""
    known = set(masks)
    for affix in _AFFIXES:
        regex = _compile(affix, "")
        cases = [match[1] for match in map(regex.fullmatch, images) if match]
        for mask in masks[:50] if cases else []:  # one mask that contains a case suggests a pattern, which is tried on all
            case = max((case for case in cases if case in mask), key=len, default=None)
            if case is None:
                continue
            pattern = mask.replace(case, "{case}", 1)
            if 2 * sum(pattern.replace("{case}", case) in known for case in cases) > len(images):
                image_flag = "" if affix == "{case}" else f"--image_pattern='{affix}' "
                return f"add {image_flag}--mask_pattern={shlex.quote(pattern)}."
    return ""
