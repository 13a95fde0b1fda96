"""Reads the BreaDM release: slices of breast DCE-MRI with tumour masks, by patient and dynamic phase.

    cases = discover_slices(source, settings, kinds=("Be", "Ma"))
    contents = open_slices(options, settings, dataset="breastdm", kinds=("Be", "Ma"), label_map=label_map, tumour={"Be": 1, "Ma": 2})

Files are `seg/{train,val,test}/images/BreaDM-{Ma,Be}-NUMBER/SUBn/NAME.jpg` and `seg/…/labels/…/NAME.png`. The patient is the group, so that the
slices and phases of a patient are in one split. The masks have compression artefacts and are thresholded at 128.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flexseg.datasets.contents import FileContents, SourceOptions
from flexseg.errors import UserError
from flexseg.files.cases import Case
from flexseg.files.groups import some
from flexseg.files.images import IMAGE_SUFFIXES, read_mask
from flexseg.files.inventory import Inventory, take_inventory
from flexseg.files.label_map import LabelMap
from flexseg.files.split import Split

LAYOUT = "seg/train, seg/val, seg/test, each with images/BreaDM-*/SUB*/*.jpg and labels/BreaDM-*/SUB*/*.png"
_SPLITS = {"train": "train", "val": "valid", "test": "test"}
_PATIENT = re.compile(r"BreaDM-(Ma|Be)-\w+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slices:
    """The slices of the release that are used.

    Attributes:
      source_splits: folders of the release: train, val, test.
      phases: names of the dynamic phases, e.g. ("SUB1",); None for all.
      most_cases: limit for each folder, in the order of names; 0 for all.
      keep_empty: keep slices without tumour.
    """

    source_splits: tuple[str, ...] = ("train", "val", "test")
    phases: tuple[str, ...] | None = None
    most_cases: int = 0
    keep_empty: bool = True

    def __post_init__(self) -> None:
        if not self.source_splits or not set(self.source_splits) <= _SPLITS.keys():
            raise UserError("source_splits", expected="some of 'train', 'val', 'test'", found=repr(self.source_splits))
        if self.most_cases < 0:
            raise UserError("most_cases", expected="0 (all) or more", found=str(self.most_cases))


class SliceContents(FileContents):
    """Slices whose tumour pixels have the class of their patient.

    Args:
      inventory: the checked slices.
      split, max_pixels: see FileContents.
      label_map: the label map of the dataset.
      tumour: {kind of patient: class id of a tumour}, e.g. {"Be": 1, "Ma": 2}.
    """

    def __init__(self, inventory: Inventory, *, split: Split, max_pixels: int, label_map: LabelMap, tumour: dict[str, int]):
        super().__init__(dataclasses.replace(inventory, label_map=label_map), split=split, max_pixels=max_pixels)
        self._tumour = tumour

    def mask_of(self, case: Case, *, sha256: str) -> np.ndarray:
        """Class ids uint8 [H, W]; a UserError where the mask has another digest than `sha256`."""
        tumour = binary_map().encode(read_mask(case.mask_path, max_pixels=self._max_pixels, sha256=sha256), case.mask) == 1
        patient = _PATIENT.fullmatch(case.group or "")
        assert patient  # checked in `_files`
        return np.where(tumour, np.uint8(self._tumour[patient[1]]), np.uint8(0))


def binary_map(class_names: tuple[str, str] = ("background", "tumour")) -> LabelMap:
    """Label map of background and tumour, with a threshold at 128."""
    return LabelMap(values={0: 0, 255: 1}, off_map="threshold", threshold=128, class_names=class_names, background=0)


def open_slices(
    options: SourceOptions, slices: Slices, *, dataset: str, kinds: Sequence[str], label_map: LabelMap, tumour: dict[str, int]
) -> SliceContents:
    """Finds the slices, splits them by patient and checks them.

    Args:
      options: flags of the command.
      slices: the slices to use.
      dataset: its name, for errors.
      kinds: kinds of patients, "Be" and "Ma".
      label_map, tumour: see SliceContents.

    Raises:
      UserError: a file cannot be used, or a patient is in two splits of the release.
    """
    options.refuse(dataset, "image_pattern", "mask_pattern", "group_pattern", "group_column", "label_map")
    cases = discover_slices(options.require_source(dataset, LAYOUT), slices, kinds=kinds)
    if not slices.keep_empty:
        kept = [case for case in cases if _has_tumour(case, options.max_image_pixels)]
        options.warn(f"{len(cases) - len(kept)} of {len(cases)} slices without tumour are left out ({dataset}.keep_empty = False)")
        cases = kept
        if not cases:
            raise UserError(f"--source={options.source}", expected="slices with tumour", found="none")
    split = options.split or Split()
    inventory = take_inventory(split.assign(cases), label_map=binary_map(), max_pixels=options.max_image_pixels, progress=options.progress)
    for sentence in inventory.warnings:
        options.warn(sentence)
    return SliceContents(inventory, split=split, max_pixels=options.max_image_pixels, label_map=label_map, tumour=tumour)


def discover_slices(source: Path, slices: Slices, *, kinds: Sequence[str]) -> list[Case]:
    """The slices of the release; `source` contains `seg/`, or is `seg/`.

    Raises:
      UserError: no slices, an image without mask, or a mask without image.
    """
    seg = source / "seg" if (source / "seg").is_dir() else source
    cases: list[Case] = []
    for name in slices.source_splits:
        images, masks = (_files(seg / name / kind, kinds, slices.phases) for kind in ("images", "labels"))
        for lone, what in ((images.keys() - masks.keys(), "a mask below labels/"), (masks.keys() - images.keys(), "an image below images/")):
            if lone:
                lacking = f"none for {some(sorted('/'.join(key) for key in lone))}"
                raise UserError(seg / name, expected=f"{what} for every file", found=lacking, cure="copy the release again")
        found = sorted(images)[: slices.most_cases or None]
        often = f"{name}_" if len(slices.source_splits) > 1 else ""
        cases += [Case(f"{often}{'_'.join(key)}", images[key], masks[key], key[0], _SPLITS[name]) for key in found]
    if not cases:
        raise UserError(f"--source={source}", expected=f"a folder with {LAYOUT}", found="no such images")
    return cases


def _files(folder: Path, kinds: Sequence[str], phases: Sequence[str] | None) -> dict[tuple[str, str, str], Path]:
    """{(patient, phase, stem): file}."""
    found: dict[tuple[str, str, str], Path] = {}
    for path in sorted(folder.glob("BreaDM-*/SUB*/*")):
        patient, phase = path.parts[-3:-1]
        kind = _PATIENT.fullmatch(patient)
        if path.suffix.lower() not in IMAGE_SUFFIXES or (phases is not None and phase not in phases):
            continue
        if kind is None:
            raise UserError(path, expected="a patient called BreaDM-Ma-… or BreaDM-Be-…", found=patient)
        if kind[1] in kinds:
            key = (patient, phase, path.stem)
            if found.setdefault(key, path) != path:
                raise UserError(path, expected="one file of each name", found=f"{found[key].name} beside it", cure="remove one of them")
    return found


def _has_tumour(case: Case, max_pixels: int) -> bool:
    return bool((binary_map().encode(read_mask(case.mask_path, max_pixels=max_pixels), case.mask) == 1).any())
