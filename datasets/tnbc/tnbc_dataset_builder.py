"""tnbc: H&E images of triple-negative breast cancer with nuclei masks, in the publisher's layout.

    flexseg build --dataset=tnbc --data_dir=data --gin_file=tnbc_split.gin                  # downloads the publisher's archive, 25 MB
    flexseg build --dataset=tnbc --source=TNBC_NucleiSegmentation.zip --data_dir=data …    # or its folder

`Slide_XX/XX_Y.png` are the images, `GT_XX/XX_Y.png` the masks (0 background, 255 nucleus). XX is the patient, which is the group. Sets that the
reference system derived from them are accepted too; the patient follows from the number of a file. See README.md for source and licence.
"""

import dataclasses
import re
from pathlib import Path

import cv2
import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from flexseg.datasets.archives import Download, fetch
from flexseg.datasets.contents import Contents, FileContents, SourceOptions
from flexseg.datasets.segmentation_builder import SegmentationBuilder
from flexseg.errors import UserError
from flexseg.files.cases import Case, discover
from flexseg.files.groups import LAST_NUMBER
from flexseg.files.inventory import take_inventory
from flexseg.files.label_map import LabelMap
from flexseg.files.split import Split

ARCHIVE = Download(
    url="https://zenodo.org/records/2579118/files/TNBC_NucleiSegmentation.zip", bytes=25_232_361, md5="1605712a752b201b57eacc8f866adb4f"
)
_LAYOUT = "Slide_XX/XX_Y.png and GT_XX/XX_Y.png"
# Number of images of patients 1 to 11. The reference system numbered the images from 1001, in the order of names.
_IMAGES_OF_PATIENTS = (7, 3, 5, 8, 4, 3, 3, 4, 6, 4, 3)
_FIRST_NUMBER = 1001


class Builder(SegmentationBuilder):
    """TNBC nuclei."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {"1.0.0": "First version.", "1.1.0": "Instances."}
    pkg_dir_path = epath.Path(__file__).parent


class TnbcContents(FileContents):
    """The publisher's files, with instances: 4-connected components of the mask. Touching nuclei are one instance."""

    has_instances = True

    def instances_of(self, mask: np.ndarray) -> np.ndarray:
        """Instances uint16 [H, W], from 1."""
        return cv2.connectedComponents((mask == 1).astype(np.uint8), connectivity=4, ltype=cv2.CV_16U)[1]


def label_map(*, derived: bool = False) -> LabelMap:
    """Background and nucleus. The publisher's masks have the values 0 and 255; derived masks have others, which go to the nearest."""
    return LabelMap(values={0: 0, 255: 1}, class_names=("background", "nucleus"), background=0, off_map="nearest" if derived else "refuse")


def discover_slides(source: Path) -> list[Case]:
    """The cases of the publisher's folder, by name; the group is the number of the patient without leading zeros.

    Raises:
      UserError: no slides, an image without mask, or a mask without image.
    """
    images, masks = _by_stem(source, "Slide_*/*.png"), _by_stem(source, "GT_*/*.png")
    if not images:
        raise UserError(f"--source={source}", expected=f"a folder with {_LAYOUT}", found="no Slide_*/*.png")
    for lone, others, kind in ((images.keys() - masks.keys(), "GT_XX", "a mask"), (masks.keys() - images.keys(), "Slide_XX", "an image")):
        if lone:
            raise UserError(
                f"--source={source}",
                expected=f"{kind} in {others} for every file",
                found=f"none for {', '.join(sorted(lone)[:5])} ({len(lone)} in all)",
            )
    cases = []
    for stem, path in sorted(images.items()):
        patient = re.fullmatch(r"Slide_(\d+)", path.parent.name)
        if not patient or masks[stem].parent.name != f"GT_{patient[1]}":
            raise UserError(path, expected=_LAYOUT, found=f"{path.parent.name}/{path.name} and {masks[stem].parent.name}/{masks[stem].name}")
        cases.append(Case(case_id=stem, image=path, mask=masks[stem], group=str(int(patient[1])), split=None))
    return cases


def discover_derived(source: Path) -> list[Case]:
    """The cases of a set derived by the reference system, `{train,valid,test}/{images,masks}/…_1034.png`; the last number gives the patient.

    Raises:
      UserError: the number is none of the publisher's 50 images, or `discover` refuses the folder.
    """
    patients = [str(patient) for patient, images in enumerate(_IMAGES_OF_PATIENTS, 1) for _ in range(images)]
    cases = []
    for case in discover(source).cases:
        number = re.search(LAST_NUMBER, case.image.stem)
        index = int(number[1]) - _FIRST_NUMBER if number else -1
        if not 0 <= index < len(patients):
            last = _FIRST_NUMBER + len(patients) - 1
            raise UserError(
                f"--source={source}",
                expected=f"a folder with {_LAYOUT}, or files whose names end with the number of one of its images, {_FIRST_NUMBER} to {last}",
                found=case.image.name,
                cure="for other files: --dataset=image_mask_folder",
            )
        cases.append(dataclasses.replace(case, group=patients[index]))
    return cases


def _by_stem(source: Path, pattern: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(source.glob(pattern)):
        if found.setdefault(path.stem, path) != path:
            raise UserError(f"--source={source}", expected="one file of each name", found=f"{found[path.stem]} and {path}", cure="rename one of them")
    return found


def open_source(options: SourceOptions) -> Contents:
    """Finds the publisher's files, splits them by patient and checks them. Downloads the archive if no source is given.

    Raises:
      UserError: the source cannot be built; nothing was written.
    """
    options.refuse("tnbc", "image_pattern", "mask_pattern", "group_pattern", "group_column", "label_map")
    folder = options.unpack(fetch(ARCHIVE, options.data_dir / "downloads"), flag="download") if options.source is None else None
    folder = folder or options.require_source("tnbc", _LAYOUT)
    derived = not any(folder.glob("Slide_*")) and any((folder / name).is_dir() for name in ("train", "images"))
    cases = discover_derived(folder) if derived else discover_slides(folder)
    split = options.split or Split()
    inventory = take_inventory(
        split.assign(cases), label_map=label_map(derived=derived), max_pixels=options.max_image_pixels, progress=options.progress
    )
    for sentence in inventory.warnings:
        options.warn(sentence)
    return TnbcContents(inventory, split=split, max_pixels=options.max_image_pixels)
