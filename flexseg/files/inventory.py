"""Inventory: checks every file of a source before a dataset is built from it.

    inventory = take_inventory(Split().assign(discover("my_set").cases), label_map=None)
    inventory.label_map, inventory.channels, inventory.window, inventory.class_pixels["train"]
    inventory.fingerprint()                 # equal for equal files, groups, splits and label map
    inventory.difference(manifest)          # changes since the dataset was built, in sentences

Every image and mask is decoded once. A few cases are in memory at a time. Labels are checked for values and size only, not for correctness.
"""

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from flexseg.errors import UserError
from flexseg.files.case_files import in_threads, refuse_other_size, sha256
from flexseg.files.cases import Case
from flexseg.files.groups import some
from flexseg.files.headers import MAX_PIXELS, Header, read_header
from flexseg.files.images import read_mask, value_range
from flexseg.files.label_map import IGNORE, LabelMap, count_colors, infer_label_map
from flexseg.files.manifest import Manifest
from flexseg.files.split import leaked

_MOST_FAILURES = 20  # errors after which checking ends; so many have one cause
_MOST_COLORS = 1 << 16  # limit on colours counted, for JPEG masks, from which no label map is inferred


@dataclasses.dataclass(frozen=True)
class CheckedCase:
    """A case whose files passed all checks.

    Attributes:
      case: the case, with its `split`; `group` is never None.
      height, width: pixels of image and mask, upright.
      converted: whether the image is converted when it is stored.
      image_sha256, mask_sha256: of the files, hex.
    """

    case: Case
    height: int
    width: int
    converted: bool
    image_sha256: str
    mask_sha256: str


@dataclasses.dataclass(frozen=True)
class Inventory:
    """The checked cases of a source and their statistics.

    Attributes:
      cases: {split: CheckedCases, in the order given}.
      label_map: the label map, given or inferred from all masks.
      channels: 3 if any image is RGB, else 1.
      window: minimum and maximum of the training images of more than 8 bits (of all such images if there are none in training), else None.
      class_pixels: {split: {class name: pixels}}, with `ignore` where pixels are ignored.
      empty_masks: {split: number of masks without foreground}.
      leaked: whether a group is in two splits.
      warnings: for the user, one sentence each.
    """

    cases: dict[str, list[CheckedCase]]
    label_map: LabelMap
    channels: Literal[1, 3]
    window: tuple[float, float] | None
    class_pixels: dict[str, dict[str, int]]
    empty_masks: dict[str, int]
    leaked: bool
    warnings: list[str]

    @property
    def converted(self) -> int:
        """Number of images that are converted when they are stored."""
        return sum(entry.converted for entries in self.cases.values() for entry in entries)

    def fingerprint(self) -> str:
        """SHA-256, hex, of case ids, groups, splits, file contents and label map; independent of paths, dates and order."""
        content = [sorted(self._rows().items()), _canonical(self.label_map.to_json())]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def difference(self, built: Manifest) -> list[str]:
        """Sentences on the differences from the source of a built dataset; empty when the fingerprints are equal."""
        if self.fingerprint() == built.fingerprint:
            return []
        new = self._rows()
        old = {
            row[0]: (name, *row[1:])
            for name, table in built.splits.items()
            for row in zip(table.case_id, table.group_id, table.image_sha256, table.mask_sha256, strict=True)
        }
        both = sorted(new.keys() & old.keys())
        changes = [("added", sorted(new.keys() - old.keys())), ("removed", sorted(old.keys() - new.keys()))]
        changes += [
            (what, [case_id for case_id in both if new[case_id][index] != old[case_id][index]])
            for index, what in enumerate(("in another split", "in another group", "with another image", "with another mask"))
        ]
        sentences = [f"{len(case_ids)} case{'s' * (len(case_ids) > 1)} {what}: {some(case_ids)}" for what, case_ids in changes if case_ids]
        now, then = _canonical(self.label_map.to_json()), _canonical(built.label_map)
        sentences += [f"label_map.{name} was {then.get(name)}, is {now.get(name)}" for name in now if now[name] != then.get(name)]
        return sentences

    def _rows(self) -> dict[str, tuple[str | None, ...]]:
        return {
            entry.case.case_id: (name, entry.case.group, entry.image_sha256, entry.mask_sha256)
            for name, entries in self.cases.items()
            for entry in entries
        }


@dataclasses.dataclass(frozen=True)
class _Finding:
    """One checked case. `counts` are pixels by class id, or by colour or value if the label map is not known yet."""

    entry: CheckedCase
    header: Header
    range: tuple[float, float]
    counts: dict


def take_inventory(
    assigned: Mapping[str, list[Case]],
    *,
    label_map: LabelMap | None,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> Inventory:
    """Checks every file of every case.

    Args:
      assigned: {split: cases with masks}, as returned by `Split.assign`.
      label_map: validates each mask; None: inferred from all masks.
      max_pixels: larger images are refused before they are decoded.
      progress: called as progress(done, all) after each case, in the calling thread.

    Raises:
      UserError: a file is unreadable, off the label map, or of another size than its pair (the first file in order, with the number of further
        errors; checking ends after 20); or no label map can be inferred.
    """
    splits = [name for name, part in assigned.items() for _ in part]
    cases = [
        dataclasses.replace(case, split=name, group=case.case_id if case.group is None else str(case.group))
        for name, part in assigned.items()
        for case in part
    ]
    entries: dict[str, list[CheckedCase]] = {name: [] for name in assigned}
    channels: Literal[1, 3] = 1
    failures = []
    ranges: dict[bool, list[tuple[float, float]]] = defaultdict(list)  # {is a training image: ranges}
    masks = _MaskCounts(assigned)
    for done, (split, finding) in enumerate(zip(splits, _checked(cases, label_map, max_pixels), strict=True), start=1):
        if progress is not None:
            progress(done, len(cases))
        if isinstance(finding, UserError):
            failures.append(finding)
            if len(failures) == _MOST_FAILURES:
                break
            continue
        entries[split].append(finding.entry)
        channels = max(channels, finding.header.channels)
        if finding.header.needs_window:
            ranges[split == "train"].append(finding.range)
        masks.add(split, finding)
    if failures:
        raise _first_of(failures, ended=done < len(cases))
    label_map, class_pixels, empty_masks = masks.classes(label_map)
    deep = ranges[True] or ranges[False]
    window = (min(low for low, _ in deep), max(high for _, high in deep)) if deep else None
    return Inventory(
        cases=entries,
        label_map=label_map,
        channels=channels,
        window=window,
        class_pixels=class_pixels,
        empty_masks=empty_masks,
        leaked=leaked(assigned),
        warnings=_copies(entries),
    )


def _checked(cases: list[Case], label_map: LabelMap | None, max_pixels: int) -> Iterator[_Finding | UserError]:
    """The finding or the error of each case, in order."""

    def check(case: Case) -> _Finding | UserError:
        try:
            return _check(case, label_map, max_pixels)
        except UserError as error:
            return error

    return in_threads(check, cases)


def _check(case: Case, label_map: LabelMap | None, max_pixels: int) -> _Finding:
    header = read_header(case.image, max_pixels=max_pixels)
    mask_header = read_header(case.mask_path, max_pixels=max_pixels)
    refuse_other_size(case, (header.height, header.width), (mask_header.height, mask_header.width))
    values = value_range(case.image, max_pixels=max_pixels)  # decodes the whole image
    mask = read_mask(case.mask_path, max_pixels=max_pixels)
    if label_map is None:
        counts = count_colors(mask)
    else:
        counts = {int(i): int(n) for i, n in enumerate(np.bincount(label_map.encode(mask, case.mask).ravel())) if n}
    entry = CheckedCase(case, header.height, header.width, header.needs_conversion, sha256(case.image), sha256(case.mask_path))
    return _Finding(entry, header, values, counts)


def _canonical(label_map: dict) -> dict:
    """`LabelMap.to_json()` with grey values as colours, so that equal maps have equal JSON."""
    content = json.loads(json.dumps(label_map))
    if "values" in content:
        content["rgb_map"] = [[[value] * 3, i] for value, i in content.pop("values")]
    return {**content, "ignore": sorted(content["ignore"])}


class _MaskCounts:
    """Pixels by split and class id (or colour, until the label map is known), and the sets of classes that occur in one mask."""

    def __init__(self, splits: Mapping[str, object]):
        self._pixels: dict[str, Counter] = {name: Counter() for name in splits}
        self._together: dict[str, Counter] = {name: Counter() for name in splits}  # {keys in a mask: number of such masks}
        self._richest = (0, Path())

    def add(self, split: str, finding: _Finding) -> None:
        pixels, counts = self._pixels[split], finding.counts
        full = len(pixels) >= _MOST_COLORS
        pixels.update({key: n for key, n in counts.items() if key in pixels} if full else counts)
        if len(counts) < IGNORE:  # with more, no label map is inferred; saves memory
            self._together[split][frozenset(counts)] += 1
        self._richest = max(self._richest, (len(counts), finding.entry.case.mask_path), key=lambda item: item[0])

    def classes(self, label_map: LabelMap | None) -> tuple[LabelMap, dict[str, dict[str, int]], dict[str, int]]:
        """(label map, inferred if None; pixels of each split by class name; empty masks of each split)."""
        keys: set = set().union(*self._pixels.values())
        if label_map is None:
            label_map = self._inferred()
            class_of = {key: int(label_map.encode(np.array([[key]], np.uint8), "masks")[0, 0]) for key in keys}
        else:
            class_of = {key: key for key in keys}
        names = {**dict(enumerate(label_map.class_names)), IGNORE: "ignore"}
        class_pixels, empty_masks = {}, {}
        for split, pixels in self._pixels.items():
            by_name = dict.fromkeys(label_map.class_names, 0)
            for key, n in pixels.items():
                by_name[names[class_of[key]]] = by_name.get(names[class_of[key]], 0) + n
            class_pixels[split] = by_name
            foreground = set(label_map.foreground_classes)
            empty_masks[split] = sum(n for keys, n in self._together[split].items() if foreground.isdisjoint(class_of[key] for key in keys))
        return label_map, class_pixels, empty_masks

    def _inferred(self) -> LabelMap:
        try:
            return infer_label_map(sum(self._pixels.values(), Counter()))
        except UserError as error:
            number, path = self._richest
            raise UserError(
                path.parent, expected=error.expected, found=f"{error.found}; most of them, {number}, in {path.name}", cure=error.cure
            ) from None


def _first_of(failures: list[UserError], *, ended: bool) -> UserError:
    """The first error, with the number of the others."""
    first, *others = failures
    if not others:
        return first
    names = some((Path(*Path(error.where).parts[-2:]) for error in others), 3)
    more = f"{'at least ' if ended else ''}{len(others)} other{'s' * (len(others) > 1)} refused: {names}"
    return UserError(first.where, expected=first.expected, found=f"{first.found} (and {more})", cure=first.cure)


def _copies(entries: Mapping[str, list[CheckedCase]]) -> list[str]:
    """A warning where one image is in two splits under two groups, which the groups alone do not show."""
    first: dict[str, CheckedCase] = {}
    pairs = []
    for entry in (entry for part in entries.values() for entry in part):
        other = first.setdefault(entry.image_sha256, entry)
        if other.case.split != entry.case.split and other.case.group != entry.case.group:
            pairs.append(f"{other.case.split}/{other.case.image.name} = {entry.case.split}/{entry.case.image.name}")
    if not pairs:
        return []
    return [
        f"{len(pairs)} image{'s' * (len(pairs) > 1)} of one split stand{'s' * (len(pairs) == 1)} in another, byte for byte: {some(pairs)}; "
        "scores there are no scores on unseen images. Remove the copies, or give them one group"
    ]
