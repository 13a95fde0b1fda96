"""Image summaries: predicted masks of a few cases after every epoch, in TensorBoard and as PNG files: the bindings `epoch_change_infer.*`.

    epoch_change_infer.num_infer_images = 6
    epoch_change_infer.images = "mini_test/images"
    epoch_change_infer.masks = "mini_test/masks"

Scores in the captions are of single cases; the report of the validation split has the means.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import gin
import numpy as np
from PIL import Image

from flexseg.console import say
from flexseg.data.dataset import BuiltDataset
from flexseg.errors import UserError, suggest
from flexseg.evaluation.scores import count_case, mean_of_known
from flexseg.files.cases import discover_pairs
from flexseg.files.headers import MAX_PIXELS
from flexseg.files.images import read_mask
from flexseg.files.label_map import LabelMap
from flexseg.files.names import below
from flexseg.inference.predict_files import load_image
from flexseg.inference.predictor import Predictor
from flexseg.pictures.panels import panel, save_png, sheet, tile_boxes
from flexseg.runs.directory import RunDirectory


@gin.configurable("epoch_change_infer")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """The cases to draw after an epoch.

    Attributes:
      num_infer_images: number of cases, the first by case id; 0 for none.
      split: split of the dataset to take the cases from.
      images: folder of images to use instead of a split.
      masks: folder of their masks, paired by stem; optional.
      every: epochs between two drawings; the last epoch is always drawn.
    """

    num_infer_images: int = 6
    split: str = "valid"
    images: str | None = None
    masks: str | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if self.num_infer_images < 0 or self.every < 1:
            raise UserError(
                "epoch_change_infer", expected="num_infer_images of at least 0, every of at least 1", found=f"{self.num_infer_images}, {self.every}"
            )
        if self.masks and not self.images:
            raise UserError("epoch_change_infer.masks", expected="epoch_change_infer.images beside it", found="none")


@dataclasses.dataclass(frozen=True)
class _Case:
    name: str
    image: np.ndarray  # uint8 [h, w, C]
    truth: np.ndarray | None  # uint8 [h, w]


class EpochPictures:
    """Draws the predictions of a few cases during training.

    Args:
      settings: the bindings.
      dataset: gives the split, and the conversion of images from a folder.
      run: the run directory, for the PNG files.
      predictor: predicts the cases.

    Raises:
      UserError: the split or folder does not exist, or a case cannot be read or is too large for the predictor.
    """

    def __init__(self, settings: PictureSettings, dataset: BuiltDataset, run: RunDirectory, predictor: Predictor):
        self._settings, self._label_map, self._run = settings, dataset.label_map, run
        self._stamp = "LEAKED  " if dataset.manifest.leaked else ""
        self._predictor = predictor
        self._cases = _from_folder(settings.images, settings, dataset) if settings.images else _from_split(settings, dataset)
        for case in self._cases:
            predictor.check_size(case.image.shape[:2], where=case.name)

    def due(self, epoch: int, *, last: bool) -> bool:
        """Whether to draw `epoch`: the first, every `every`-th after it, and the last."""
        return bool(self._cases) and (last or (epoch - 1) % self._settings.every == 0)

    def draw(self, epoch: int, *, between_batches: Callable[[], None] = lambda: None) -> dict[str, np.ndarray]:
        """Predicts and draws every case, writes the PNG files of `epoch`, and returns {case: uint8 [h, w, 3]}."""
        panels = {}
        predictions = self._predictor.predict([case.image for case in self._cases], between_batches=between_batches)
        for case, prediction in zip(self._cases, predictions, strict=True):
            caption = f"{self._stamp}{case.name}  epoch {epoch}"
            if case.truth is not None:
                caption += f"  Dice {_dice(case.truth, prediction, self._label_map):.3f}"
            panels[case.name] = panel(case.image, case.truth, prediction, self._label_map, caption=caption)
            if self._predictor.replicas.is_chief:
                save_png(below(self._run.pictures, f"epoch_{epoch:04d}", f"{case.name}.png"), panels[case.name])
        return panels

    def sheet(self, *, epochs: int) -> Path | None:
        """Writes `epoch_change_infer.png`: cases as columns, the first, middle and last three drawn epochs up to `epochs` as rows."""
        drawn = {f"epoch_{epoch:04d}" for epoch in range(1, epochs + 1)}  # later folders are from before a restart
        folders = sorted(folder for folder in self._run.pictures.glob("epoch_*") if folder.name in drawn)
        if not folders or not self._cases:
            return None
        middle = max(0, len(folders) // 2 - 1)
        shown = sorted({*folders[:3], *folders[middle : middle + 3], *folders[-3:]})
        first = [("input", [self._tile(folders[-1], case, 0) for case in self._cases])]
        if any(case.truth is not None for case in self._cases):
            first.append(("truth", [self._tile(folders[-1], case, 1) if case.truth is not None else None for case in self._cases]))
        rows = [(f"epoch {int(folder.name.removeprefix('epoch_'))}", [self._tile(folder, case, -1) for case in self._cases]) for folder in shown]
        return save_png(
            self._run.picture_sheet, sheet([*first, *rows], columns=[self._stamp + case.name for case in self._cases], label_map=self._label_map)
        )

    def _tile(self, folder: Path, case: _Case, index: int) -> np.ndarray | None:
        path = folder / f"{case.name}.png"
        if not path.is_file():
            return None
        left, top, right, bottom = tile_boxes(*case.image.shape[:2], truth=case.truth is not None)[index]
        try:
            with Image.open(path, formats=["PNG"]) as drawn:
                if drawn.width < right or drawn.height < bottom or drawn.width * drawn.height > 100 * max(1, right * bottom):
                    return None
                return np.asarray(drawn.convert("RGB"))[top:bottom, left:right]
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # another file under its name
            return None


def _dice(truth: np.ndarray, prediction: np.ndarray, label_map: LabelMap) -> float:
    return float(mean_of_known(count_case(truth, prediction, label_map.num_classes).dice[list(label_map.foreground_classes)]))


def _from_split(settings: PictureSettings, dataset: BuiltDataset) -> list[_Case]:
    if not settings.num_infer_images:
        return []
    if settings.split == "valid" and not dataset.has("valid"):  # the default split, so no error
        say("no pictures of the epochs: the dataset has no validation split (epoch_change_infer.split='train' pictures training cases)")
        return []
    if not dataset.has(settings.split):
        there = [name for name in dataset.manifest.splits if dataset.has(name)]
        raise UserError(
            "epoch_change_infer.split",
            expected=f"one of {', '.join(there)}",
            found=repr(settings.split),
            cure=f"bind one of them.{suggest(settings.split, there)}",
        )
    table, records = dataset.table(settings.split), dataset.records(settings.split)
    first = np.argsort(table.case_id, kind="stable")[: settings.num_infer_images]
    with dataset.naming_damage(settings.split, lambda: first.tolist()):
        return [_Case(table.case_id[index], *records.example(int(index))) for index in first]


def _from_folder(images: str, settings: PictureSettings, dataset: BuiltDataset) -> list[_Case]:
    manifest = dataset.manifest
    found = []
    pairs = discover_pairs(images, settings.masks)
    for warning in pairs.warnings:
        say("warning: %s", warning)
    for case in pairs.cases[: settings.num_infer_images]:
        image = load_image(case.image, manifest=manifest, max_pixels=MAX_PIXELS)
        truth = _encoded(case.mask, dataset) if case.mask else None
        if truth is not None and truth.shape != image.shape[:2]:
            raise UserError(
                case.mask, expected=f"the image's {image.shape[0]} × {image.shape[1]} pixels", found=f"{truth.shape[0]} × {truth.shape[1]}"
            )
        found.append(_Case(case.case_id, image, truth))
    return found


def _encoded(mask: Path, dataset: BuiltDataset) -> np.ndarray:
    try:
        return dataset.label_map.encode(read_mask(mask), mask)
    except UserError as error:  # its cure is for `flexseg build`
        cure = f"these masks need the label map that the dataset was built with; to widen it: flexseg build --overwrite …, and {error.cure}"
        raise UserError(error.where, expected=error.expected, found=error.found, cure=cure) from error
