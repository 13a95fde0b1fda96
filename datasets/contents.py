"""Contents: the examples of a dataset by split, as a TFDS builder writes them.

Usage:
    contents = FileContents(inventory, split=split, max_pixels=150_000_000)
    for example in contents.examples("train"): example.image, example.mask
"""

import abc
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from flexseg.datasets.archives import unpacked
from flexseg.errors import UserError
from flexseg.files.cases import Case
from flexseg.files.images import read_mask, stored_bytes
from flexseg.files.inventory import Inventory
from flexseg.files.label_map import LabelMap
from flexseg.files.manifest import Manifest
from flexseg.files.split import Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One case as it is stored.

    Attributes:
      case_id: name of the case, unique in the dataset.
      group_id: its group, which is in one split only.
      image: PNG or JPEG bytes, 8 bits per channel.
      mask: class ids uint8 [H, W], 255 = ignore.
      instances: uint16 [H, W], 0 = none, or None.
      image_sha256, mask_sha256: of the source files; empty where there are none.
    """

    case_id: str
    group_id: str
    image: bytes
    mask: np.ndarray
    instances: np.ndarray | None = None
    image_sha256: str = ""
    mask_sha256: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """The flags of `flexseg build` that describe the source; a dataset refuses those that do not apply to it.

    Attributes:
      source: folder, or None for a generated dataset.
      image_pattern, mask_pattern, group_pattern, group_column: see `flexseg.files.cases.discover`; None if not given.
      max_image_pixels: limit on the pixels of an image, checked before decoding.
      label_map: the label map of the bindings; None: inferred from the masks.
      split: the split of the bindings; None if there are none.
      bound: names of the configurables with bindings, e.g. `label_map`.
      warn: called with each warning, one sentence.
      progress: called with (cases checked, all).
      data_dir: the TFDS data directory, also for downloads.
      kept: objects that must live until the dataset is built.
    """

    source: str | None
    image_pattern: str | None
    mask_pattern: str | None
    group_pattern: str | None
    group_column: str | None
    max_image_pixels: int
    label_map: LabelMap | None
    split: Split | None
    bound: frozenset[str]
    warn: Callable[[str], None]
    progress: Callable[[int, int], None] | None
    data_dir: Path
    kept: list[object] = dataclasses.field(default_factory=list)

    def refuse(self, dataset: str, *names: str) -> None:
        """Raises a UserError if one of the named flags or configurables (`label_map`, `split`) is set."""
        for name in names:
            if name in self.bound:
                raise UserError(f"{name}.*", expected=f"no such binding for --dataset={dataset}", found="one", cure="leave it out")
            if name not in ("label_map", "split") and getattr(self, name) is not None:
                cure = f"leave it out, or is it --dataset=image_mask_folder that you mean? {dataset} knows its own files"
                raise UserError(f"--{name}", expected=f"no such flag for --dataset={dataset}", found=repr(getattr(self, name)), cure=cure)

    def require_source(self, dataset: str, layout: str) -> Path:
        """The source folder, unpacked if it is a zip file; a UserError if it is missing."""
        path = None if self.source is None else Path(self.source)
        if path is not None and path.is_file():
            return self.unpack(path, flag="--source")
        if path is None or not path.is_dir():
            raise UserError(
                "--source",
                expected=f"a folder, or a zip file of one, with {layout}",
                found="none" if path is None else f"no folder {path}",
                cure=f"flexseg build --dataset={dataset} --source=FOLDER …",
            )
        return path

    def unpack(self, path: Path, *, flag: str) -> Path:
        """The folder of a zip file, which exists as long as these options."""
        archive = unpacked(path, flag=flag)
        self.kept.append(archive)
        return archive.folder


class Contents(abc.ABC):
    """The base class of all sources of examples; the attributes are those of `Manifest`."""

    label_map: LabelMap
    channels: Literal[1, 3]
    window: tuple[float, float] | None = None
    converted: int = 0
    leaked: bool = False
    has_instances: bool = False
    fingerprint: str = ""
    split: dict  # the settings of the split, by name

    @abc.abstractmethod
    def sizes(self) -> dict[str, int]:
        """{split: number of examples}, without empty splits."""

    @abc.abstractmethod
    def example(self, split: str, number: int) -> Example:
        """Example `number` of `split`, from 0; deterministic in any process."""

    def examples(self, split: str) -> Iterator[Example]:
        """The examples of `split`, in order."""
        return (self.example(split, number) for number in range(self.sizes()[split]))

    def digests(self, split: str, number: int) -> tuple[str, str]:
        """SHA-256 of the source files of an example, image and mask; empty where there are none."""
        return "", ""

    @abc.abstractmethod
    def difference(self, built: Manifest) -> list[str]:
        """Sentences on the differences from the manifest of a built dataset; empty if the contents are equal."""


class FileContents(Contents):
    """The examples of an inventory.

    Args:
      inventory: the checked files.
      split: the settings of the split.
      max_pixels: limit on the pixels of an image, checked before decoding.
    """

    def __init__(self, inventory: Inventory, *, split: Split, max_pixels: int):
        self._inventory, self._max_pixels, self.split = inventory, max_pixels, dataclasses.asdict(split)
        self.label_map, self.channels, self.window = inventory.label_map, inventory.channels, inventory.window
        self.converted, self.leaked, self.fingerprint = inventory.converted, inventory.leaked, inventory.fingerprint()

    def sizes(self) -> dict[str, int]:
        """{split: number of cases}."""
        return {name: len(cases) for name, cases in self._inventory.cases.items() if cases}

    def example(self, split: str, number: int) -> Example:
        """Reads, converts and encodes a case; a UserError where a file changed since it was checked."""
        checked = self._inventory.cases[split][number]
        case = checked.case
        stored = stored_bytes(case.image, channels=self.channels, window=self.window, max_pixels=self._max_pixels, sha256=checked.image_sha256)
        mask = self.mask_of(case, sha256=checked.mask_sha256)
        return Example(
            case_id=case.case_id,
            group_id=case.group or case.case_id,
            image=stored.data,
            mask=mask,
            instances=self.instances_of(mask) if self.has_instances else None,
            image_sha256=checked.image_sha256,
            mask_sha256=checked.mask_sha256,
        )

    def digests(self, split: str, number: int) -> tuple[str, str]:
        """SHA-256 of image and mask file."""
        checked = self._inventory.cases[split][number]
        return checked.image_sha256, checked.mask_sha256

    def mask_of(self, case: Case, *, sha256: str) -> np.ndarray:
        """Class ids uint8 [H, W] of a case; a UserError where its mask has another digest than `sha256`."""
        return self.label_map.encode(read_mask(case.mask_path, max_pixels=self._max_pixels, sha256=sha256), case.mask)

    def instances_of(self, mask: np.ndarray) -> np.ndarray:
        """Instances uint16 [H, W], 0 = none, of class ids; called only if `has_instances`."""
        raise NotImplementedError

    def difference(self, built: Manifest) -> list[str]:
        """The changes of the source."""
        return self._inventory.difference(built)
