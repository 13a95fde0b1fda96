"""Derives findings from a survey of a source, most serious first.

    for finding in find(entries, label_map, label_problem="", warnings=[]):
        finding.severity, finding.code, finding.text, finding.names

An error prevents a build or makes scores invalid. A warning may be intended. A note is information.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np

from flexseg.checks.likeness import alike
from flexseg.checks.survey import Surveyed
from flexseg.files.groups import some
from flexseg.files.label_map import LabelMap
from flexseg.files.manifest import Manifest

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
      severity: "error", "warning" or "note".
      code: short identifier, for programs.
      text: one sentence with the first names and the cure.
      names: all cases or files concerned.
    """

    severity: Severity
    code: str
    text: str
    names: tuple[str, ...] = ()


def find(entries: Sequence[Surveyed], label_map: LabelMap | None, *, label_problem: str = "", warnings: Iterable[str] = ()) -> list[Finding]:
    """All findings about a source.

    Args:
      entries: the survey; cases have a split where the folder has splits.
      label_map: the label map, given or inferred; None where there is none.
      label_problem: the reason why no label map could be inferred, with the binding to add.
      warnings: warnings of `discover`.
    """
    found = [Finding("warning", "discovery", sentence) for sentence in warnings]
    bad = [entry for entry in entries if entry.problem]
    for entry in bad:
        found.append(Finding("error", "unusable", entry.problem, (entry.case.case_id,)))
    if label_problem:
        found.append(Finding("error", "labels", label_problem))
    sound = [entry for entry in entries if not entry.problem]
    found += [*_groups(entries), *_copies(sound), *_masks(sound, label_map), *_kinds(sound)]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _groups(entries: Sequence[Surveyed]) -> list[Finding]:
    """Groups in two splits."""
    splits: dict[str, dict[str, str]] = defaultdict(dict)
    for entry in entries:
        if entry.case.split and entry.case.group is not None:
            splits[entry.case.group].setdefault(entry.case.split, entry.case.case_id)
    leaks = {group: cases for group, cases in splits.items() if len(cases) > 1}
    if not leaks:
        return []
    examples = some(f"{group} ({', '.join(f'{split}: {case}' for split, case in cases.items())})" for group, cases in sorted(leaks.items()))
    cure = 'flexseg build … --gin_param="split.resplit=True" divides anew.'
    text = f"{count_of(len(leaks), 'group')} in two splits or more, a leak: {examples}. {cure}"
    return [Finding("error", "leak", text, tuple(sorted(leaks)))]


def _copies(sound: Sequence[Surveyed]) -> list[Finding]:
    """Duplicate images: identical files, or another size, orientation or compression; with different masks, or in two splits."""
    by_bytes: dict[str, list[Surveyed]] = defaultdict(list)
    for entry in sound:
        by_bytes[entry.image_sha256].append(entry)
    pairs: dict[tuple[str, str], list[tuple[Surveyed, Surveyed]]] = defaultdict(list)
    for same in by_bytes.values():
        for other in same[1:]:
            pairs["exact_copy", "contradicting" if other.mask_sha256 != same[0].mask_sha256 else _apart(same[0], other)].append((same[0], other))
    first = [same[0] for same in by_bytes.values()]
    linked: set[tuple[str, int]] = set()  # reports about n pairs of n similar images instead of n² / 2

    def tells(one: int, other: int) -> bool:
        where = _apart(first[one], first[other])
        return (where, one) not in linked or (where, other) not in linked

    for pair in alike([entry.likeness for entry in first if entry.likeness], tells):
        where = _apart(first[pair.first], first[pair.second])
        linked |= {(where, pair.first), (where, pair.second)}
        pairs["near_copy", where].append((first[pair.first], first[pair.second]))
    contradicting = pairs["exact_copy", "contradicting"]
    found = _pairs("error", "two_masks", contradicting, "byte for byte the same image under different masks", "Keep the one that is right.")
    for kind, what in (("exact_copy", "byte for byte the same image"), ("near_copy", "the same picture, turned, resized or compressed")):
        cure = "Give them one group, or remove one."
        severity: Severity = "error" if kind == "exact_copy" else "warning"
        found += _pairs(severity, f"{kind}_across_splits", pairs[kind, "splits"], f"{what} in two splits", cure)
        found += _pairs("warning", kind, pairs[kind, "groups"], f"{what} in two groups, which a division may separate", cure)
        found += _pairs("note", kind, pairs[kind, ""], f"{what} twice", "It counts double.")
    return found


def _apart(one: Surveyed, other: Surveyed) -> str:
    """The boundary between two cases: "splits", "groups" or nothing."""
    return "splits" if one.case.split != other.case.split else "groups" if one.case.group != other.case.group else ""


def _pairs(severity: Severity, code: str, pairs: Sequence[tuple[Surveyed, Surveyed]], what: str, cure: str) -> list[Finding]:
    if not pairs:
        return []
    names = tuple(f"{_name(one)} = {_name(other)}" for one, other in pairs)
    return [Finding(severity, code, f"{count_of(len(pairs), 'pair')}: {what}: {some(names)}. {cure}", names)]


def _masks(sound: Sequence[Surveyed], label_map: LabelMap | None) -> list[Finding]:
    """Masks without foreground, and one mask for several images."""
    found = []
    if label_map is not None:
        foreground = set(label_map.foreground_classes)
        empty = tuple(_name(entry) for entry in sound if not foreground & classes_of(entry, label_map).keys())
        if empty:
            severity: Severity = "note" if len(empty) <= len(sound) / 2 else "warning"
            found.append(Finding(severity, "empty_masks", f"{count_of(len(empty), 'mask')} without foreground: {some(empty)}.", empty))
        present = Counter(class_id for entry in sound for class_id in classes_of(entry, label_map))
        absent = [name for class_id, name in enumerate(label_map.class_names) if not present[class_id]]
        if absent and sound:
            found.append(Finding("warning", "absent_class", f"no mask has a pixel of {some(absent)}.", tuple(absent)))
    by_mask: dict[str, list[Surveyed]] = defaultdict(list)
    for entry in sound:
        if len(entry.colors) > 1:
            by_mask[entry.mask_sha256].append(entry)
    shared = [(same[0], other) for same in by_mask.values() for other in same[1:] if other.image_sha256 != same[0].image_sha256]
    found += _pairs("warning", "one_mask", shared, "byte for byte the same mask under different images", "One of them has the wrong one?")
    return found


def _kinds(sound: Sequence[Surveyed]) -> list[Finding]:
    """Sizes and modes, where there are several."""
    found = []
    sizes = Counter(f"{entry.height} x {entry.width}" for entry in sound)
    modes = Counter(f"{entry.mode}, {entry.bits} bits" for entry in sound)
    for code, what, kinds in (("sizes", "sizes", sizes), ("modes", "kinds of image", modes)):
        if len(kinds) > 1:
            names = [f"{kind}: {number}" for kind, number in kinds.most_common()]
            found.append(Finding("note", code, f"{len(kinds)} {what}: {some(names)}.", tuple(names)))
    return found


def changes(entries: Sequence[Surveyed], manifest: Manifest) -> list[Finding]:
    """Changes since a dataset was built; splits made by `flexseg build` are not compared."""
    then = {
        case: (group, image, mask)
        for table in manifest.splits.values()
        for case, group, image, mask in zip(table.case_id, table.group_id, table.image_sha256, table.mask_sha256, strict=True)
    }
    now = {entry.case.case_id: (str(entry.case.group), entry.image_sha256, entry.mask_sha256) for entry in entries}
    kinds: list[tuple[str, Severity, Callable[[str], bool]]] = [
        ("added", "warning", lambda case: case not in then), ("missing", "error", lambda case: case not in now),
        ("another image", "error", lambda case: case in then and case in now and then[case][1] != now[case][1]),
        ("another mask", "error", lambda case: case in then and case in now and then[case][2] != now[case][2]),
        ("another group", "warning", lambda case: case in then and case in now and then[case][0] != now[case][0]),
    ]  # fmt: skip
    found = []
    for what, severity, applies in kinds:
        names = tuple(sorted(filter(applies, then.keys() | now.keys())))
        if names:
            code = "changed_" + what.rpartition(" ")[2]
            found.append(Finding(severity, code, f"{count_of(len(names), 'case')} since the manifest was written: {what}: {some(names)}.", names))
    return found


def classes_of(entry: Surveyed, label_map: LabelMap) -> dict[int, int]:
    """{class id: pixels} of a mask, with 255 = ignore; if the LabelMap was inferred, only from the colours that the survey kept."""
    if entry.class_pixels is not None:
        return entry.class_pixels
    found: Counter = Counter()
    ids = label_map.encode(np.array([list(entry.colors)], np.uint8), entry.case.mask)[0] if entry.colors else []
    for class_id, number in zip(ids, entry.colors.values(), strict=True):
        found[int(class_id)] += number
    return dict(found)


def _name(entry: Surveyed) -> str:
    return f"{entry.case.split}/{entry.case.image.name}" if entry.case.split else entry.case.image.name


def count_of(number: int, what: str) -> str:
    """`1 case`, `2 cases`."""
    return f"{number} {what}{'s' * (number != 1)}"
