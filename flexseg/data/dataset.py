"""BuiltDataset: reads a dataset that `flexseg build` wrote.

    dataset = open_dataset("my_set", data_dir)
    dataset.label_map.class_names, len(dataset.table("train"))
    records = dataset.records("train")

Its files are TFDS shards and `manifest.json`, which holds the LabelMap. Plain TFDS opens the same directory.
"""

import contextlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from flexseg.data.records import Records
from flexseg.errors import UserError, suggest
from flexseg.files.label_map import LabelMap
from flexseg.files.manifest import RECORD_FRAME, Manifest, SplitTable

# Errors of reading a damaged shard: a wrong checksum, a truncated record, an offset beyond the end.
_DAMAGE = (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError)


class BuiltDataset:
    """One version of a dataset on disk.

    Args:
      directory: the folder of `manifest.json` and the shards.

    Attributes:
      manifest: content of `manifest.json`.
      label_map: the LabelMap.

    Raises:
      UserError: the manifest is missing or invalid.
    """

    def __init__(self, directory: Path):
        self.directory = Path(directory)
        self.manifest = Manifest.load(self.directory / "manifest.json")
        self.label_map = LabelMap.from_json(self.manifest.label_map)

    @property
    def name(self) -> str:
        """The name for `--dataset`."""
        return self.manifest.dataset

    def table(self, split: str) -> SplitTable:
        """The columns of a split in the manifest.

        Raises:
          UserError: the dataset has no such split, or it is empty.
        """
        splits = self.manifest.splits
        if split not in splits or not len(splits[split]):
            there = ", ".join(name for name, table in splits.items() if len(table))
            cure = f"name one of them with --split.{suggest(split, splits)}"
            raise UserError(f"dataset {self.name}", expected=f"a split {split!r}", found=f"the splits {there}", cure=cure)
        return splits[split]

    def has(self, split: str) -> bool:
        """Whether `split` exists and is not empty."""
        return split in self.manifest.splits and len(self.manifest.splits[split]) > 0

    def records(self, split: str) -> Records:
        """The records of a split.

        Raises:
          UserError: no such split, or a shard is missing.
        """
        table = self.table(split)
        files = [str(self.directory / name) for name in table.files]
        missing = [name for name in files if not Path(name).is_file()]
        if missing:
            raise UserError(
                missing[0], expected="a shard of the dataset", found="no such file", cure="build the dataset again with `flexseg build … --overwrite`"
            )
        bytes_of = np.array([Path(name).stat().st_size for name in files], np.int64)
        beyond = np.array(table.offset, np.int64) + np.array(table.length, np.int64) + RECORD_FRAME > bytes_of[np.array(table.shard)]
        if beyond.any():
            index = int(np.flatnonzero(beyond)[0])
            raise UserError(
                files[table.shard[index]],
                expected=f"the record of case {table.case_id[index]} in the {bytes_of[table.shard[index]]:,} bytes of the shard",
                found=f"{table.length[index]:,} bytes at {table.offset[index]:,} in the manifest",
                cure="build the dataset again with `flexseg build … --overwrite`",
            )
        return Records(
            files=files, shard=np.array(table.shard), offset=np.array(table.offset), length=np.array(table.length), channels=self.manifest.channels
        )

    @contextlib.contextmanager
    def naming_damage(self, split: str, indices: Callable[[], Iterable[int]] | None = None) -> Iterator[None]:
        """Turns read errors inside the context into a UserError that names shard, record and case; TensorFlow's error names no file.

        Args:
          split: the split that is read.
          indices: returns the indices of the records that may be damaged; default: all of the split.
        """
        try:
            yield
        except _DAMAGE as error:
            table, records = self.table(split), self.records(split)
            for index in indices() if indices else range(len(table)):
                try:
                    records.decode(records.read(tf.constant(index, tf.int64)))
                except _DAMAGE as damage:
                    number = table.shard[: index + 1].count(table.shard[index]) - 1
                    raise UserError(
                        self.directory / table.files[table.shard[index]],
                        expected="sound TFRecords",
                        found=f"record {number} damaged (case {table.case_id[index]}): {damage.message.partition(' [Op:')[0].splitlines()[-1]}",
                        cure="build the dataset again with --overwrite, or bring the file back",
                    ) from error
            raise

    def sizes(self, split: str) -> np.ndarray:
        """(height, width) of every record, int64 [N, 2]."""
        table = self.table(split)
        return np.stack([np.array(table.height, np.int64), np.array(table.width, np.int64)], axis=1)

    def refuse_larger(self, split: str, size: tuple[int, int], *, binding: str, otherwise: str) -> None:
        """Raises a UserError that names the case if an image of `split` is larger than the padded input `size` = (height, width).

        Args:
          split: the split to check.
          size: (height, width) in pixels.
          binding: gin binding of the size, for the message.
          otherwise: gin binding without padding, for the message.
        """
        table, sizes = self.table(split), self.sizes(split)
        for index in np.flatnonzero((sizes > np.array(size)).any(axis=1))[:1]:
            raise UserError(
                binding,
                expected=f"at least the {sizes[index, 0]} × {sizes[index, 1]} pixels of case {table.case_id[index]} in {split}",
                found=f"{size[0]} × {size[1]}",
                cure=f'--gin_param="{otherwise}", or a larger {binding}',
            )

    def largest(self) -> tuple[int, int]:
        """(largest height, largest width) over all splits."""
        sizes = np.concatenate([self.sizes(name) for name in self.manifest.splits if self.has(name)])
        return int(sizes[:, 0].max()), int(sizes[:, 1].max())


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", folder.name))


def built_datasets(data_dir: Path) -> dict[str, Path]:
    """{name: folder of the newest version} of the built datasets in `data_dir`."""
    found: dict[str, Path] = {}
    for manifest in sorted(Path(data_dir).glob("*/*/*/manifest.json")):
        folder = manifest.parent
        if folder.parents[1].name.startswith("."):
            continue  # an incomplete build
        name = folder.parent.name
        if name not in found or _version(folder) > _version(found[name]):
            found[name] = folder
    return found


def open_dataset(name: str, data_dir: str | Path) -> BuiltDataset:
    """Opens the newest version of a built dataset by name.

    Raises:
      UserError: there is no dataset of that name; the error lists all.
    """
    found = built_datasets(Path(data_dir))
    if name not in found:
        own = f"--dataset={name}" if _shipped(name) else f"--name={name} --source=FOLDER"
        raise UserError(
            f"--dataset={name} in {data_dir}",
            expected="a built dataset",
            found=("the datasets " + ", ".join(sorted(found))) if found else "none",
            cure=f"flexseg build {own} --data_dir={data_dir}{suggest(name, found)}",
        )
    return BuiltDataset(found[name])


def _shipped(name: str) -> bool:
    """Whether flexseg ships a dataset builder of that name."""
    spec = importlib.util.find_spec(f"flexseg.datasets.{name}") if name.isidentifier() and name != "image_mask_folder" else None
    return spec is not None and spec.submodule_search_locations is not None
