"""Writes Contents as a TFDS dataset with a manifest; the directory is written whole or not at all.

    directory, written = build_dataset(Builder, contents, dataset="tnbc", name="tnbc", data_dir="data", overwrite=False)

The files are written to a temporary folder beside the target and renamed at the end. A dataset of the same name and content is kept. One of other
content is an error that lists the differences, unless `overwrite` is set.
"""

import contextlib
import dataclasses
import io
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.utils import tqdm_utils

from flexseg.datasets.contents import Contents, Example
from flexseg.datasets.segmentation_builder import SegmentationBuilder
from flexseg.errors import UserError
from flexseg.files.atomic import make_folder
from flexseg.files.images import Storage
from flexseg.files.manifest import Manifest, SplitTable, tfrecord_offsets
from flexseg.files.own_folder import is_own_folder, make_own_folder


@dataclasses.dataclass(frozen=True)
class Beam:
    """The settings of an Apache Beam pipeline.

    Attributes:
      runner: name of the runner, e.g. DirectRunner, DataflowRunner, FlinkRunner.
      options: command-line options of the pipeline: ("--direct_num_workers=2",).
    """

    runner: str
    options: tuple[str, ...] = ()

    def pipeline_options(self) -> Any:
        """The PipelineOptions of Beam.

        Raises:
          UserError: Apache Beam is not installed.
        """
        try:
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError as error:
            raise UserError("--beam_runner", expected="Apache Beam", found=str(error), cure="pip install 'flexseg[beam]'") from error
        return PipelineOptions(list(self.options))


class _Facts:
    """Collects the manifest's columns and statistics while examples are written."""

    def __init__(self, contents: Contents, progress: Callable[[int, int], None] | None):
        self._contents, self._progress = contents, progress
        self._all, self._done = sum(contents.sizes().values()), 0
        self.rows: dict[str, list[dict]] = {}
        self.class_pixels: dict[str, Counter] = {}
        self.empty_masks: Counter = Counter()

    def watch(self, split: str, example: Example) -> None:
        counts = np.bincount(example.mask.ravel(), minlength=256)
        names = self._contents.label_map.class_names
        pixels = self.class_pixels.setdefault(split, Counter(dict.fromkeys(names, 0)))
        for class_id in np.flatnonzero(counts):
            pixels[names[class_id] if class_id < len(names) else "ignore"] += int(counts[class_id])
        self.empty_masks[split] += not any(counts[k] for k in self._contents.label_map.foreground_classes)
        self.rows.setdefault(split, []).append(
            {
                "case_id": example.case_id, "group_id": example.group_id, "height": example.mask.shape[0], "width": example.mask.shape[1],
                "image_sha256": example.image_sha256, "mask_sha256": example.mask_sha256,
            }
        )  # fmt: skip
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._all)

    def read(self, split: str, files: list[str]) -> None:
        """Collects them from the records of a split that Beam's workers wrote."""
        features = {name: tf.io.FixedLenFeature([], tf.string) for name in ("case_id", "group_id", "image", "mask")}
        records = tf.data.TFRecordDataset(files).map(lambda record: tf.io.parse_single_example(record, features))
        for number, record in enumerate(records.as_numpy_iterator()):
            image_sha256, mask_sha256 = self._contents.digests(split, number)
            mask = cv2.imdecode(np.frombuffer(record["mask"], np.uint8), cv2.IMREAD_UNCHANGED)
            if mask is None:
                raise ValueError(f"OpenCV gives no mask of record {number} of {split}")
            example = Example(
                case_id=record["case_id"].decode(),
                group_id=record["group_id"].decode(),
                image=record["image"],
                mask=mask,
                image_sha256=image_sha256,
                mask_sha256=mask_sha256,
            )
            self.watch(split, example)


def build_dataset(
    builder_class: type[SegmentationBuilder],
    contents: Contents,
    *,
    dataset: str,
    name: str,
    data_dir: str | Path,
    overwrite: bool = False,
    num_shards: int | None = None,
    beam: Beam | None = None,
    storage: Storage = "as_is",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, bool]:
    """Writes a dataset.

    Args:
      builder_class: the dataset's `Builder`.
      contents: the examples.
      dataset: name of the builder, the first folder in `data_dir`.
      name: the user's name of the dataset, the second folder.
      data_dir: the TFDS data directory.
      overwrite: replace a dataset of this name with other content.
      num_shards: TFRecord shards per split; default by size, as in TFDS.
      beam: generate examples with Apache Beam; default: in this process.
      storage: encoding of the images, see `images.encoded_as`.
      progress: called with (examples written, all).

    Returns:
      (directory, whether it was written by this call).

    Raises:
      UserError: a dataset of this name has another source, or a split has fewer examples than shards.
    """
    smallest = min(contents.sizes().items(), key=lambda item: item[1])
    if num_shards is not None and num_shards > smallest[1]:
        raise UserError("--num_shards", expected=f"at most the {smallest[1]} cases of the split {smallest[0]}", found=str(num_shards))
    data_dir = Path(data_dir).absolute()
    if data_dir.exists() and not data_dir.is_dir():
        raise UserError(f"--data_dir={data_dir}", expected="a folder", found="a file")
    target = data_dir / dataset / name / str(builder_class.VERSION)
    if target.exists() and not (target / "manifest.json").is_file():
        raise UserError(target, expected="a dataset that flexseg built, or nothing", found="other files, and no manifest.json", cure="move them away")
    if target.exists() and not overwrite:
        _refuse_other_source(target, contents, name=name, num_shards=num_shards, storage=storage)
        return target, False
    make_folder(data_dir, flag="--data_dir")
    for other in data_dir.glob(f"*/{name}/*/manifest.json"):
        if other.parents[2].name != dataset and not other.parents[2].name.startswith("."):
            raise UserError(f"--name={name}", expected="a name that no other dataset has", found=str(other.parent), cure="take another --name")
    beside, parts = data_dir / f".building_{dataset}_{name}", (dataset, "old")
    # An earlier call was killed between its two renames.
    if not target.exists() and is_own_folder(beside, unmarked=parts) and (beside / "old").exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        (beside / "old").rename(target)
    make_own_folder(beside, unmarked=parts)
    try:
        _write(
            builder_class, contents, dataset=dataset, name=name, beside=beside, num_shards=num_shards, beam=beam, storage=storage, progress=progress
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        old = beside / "old"
        if target.exists():
            target.rename(old)
        try:
            (beside / dataset / name / str(builder_class.VERSION)).rename(target)
        except BaseException:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target, True


def _refuse_other_source(target: Path, contents: Contents, *, name: str, num_shards: int | None, storage: Storage) -> None:
    """Raises a UserError where the dataset in `target` was built from another source or with other options."""
    manifest = Manifest.load(target / "manifest.json")
    changes = list(contents.difference(manifest))
    shards = max(len(table.files) for table in manifest.splits.values())
    if num_shards is not None and num_shards != shards:
        changes.append(f"{shards} shards a split instead of {num_shards}")
    if storage != manifest.storage:
        changes.append(f"images stored {manifest.storage} instead of {storage}")
    if changes:
        raise UserError(
            f"--name={name}",
            expected=f"the source that {target} was built from",
            found="; ".join(changes),
            cure="add --overwrite, or take another --name",
        )


def _write(
    builder_class: type[SegmentationBuilder],
    contents: Contents,
    *,
    dataset: str,
    name: str,
    beside: Path,
    num_shards: int | None,
    beam: Beam | None,
    storage: Storage,
    progress: Callable[[int, int], None] | None,
) -> None:
    facts = _Facts(contents, progress)
    tqdm_utils.disable_progress_bar()  # TFDS has a bar per shard; flexseg has one for all
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # TFDS warns of every config that is not in its code, such as the user's name
    builder = builder_class(contents=contents, name=name, data_dir=str(beside), watch=facts.watch, beam=beam is not None, storage=storage)
    settings = {} if beam is None else {"beam_runner": beam.runner, "beam_options": beam.pipeline_options()}
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints the temporary folder
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=num_shards, **settings))
    except Exception as error:
        mistake = _mistake_in(error) if beam else None
        if mistake is None:
            raise
        raise mistake from error
    finally:
        logging.set_verbosity(verbosity)
    directory = Path(builder.data_dir)
    if directory != beside / dataset / name / str(builder_class.VERSION):
        raise ValueError(f"TFDS wrote to {directory}: the builder's module must give it the name {dataset}")
    if beam is not None:
        for split in contents.sizes():
            facts.read(split, [str(directory / name) for name in sorted(builder.info.splits[split].filenames)])
    manifest = Manifest(
        dataset=name,
        version=str(builder_class.VERSION),
        channels=contents.channels,
        window=contents.window,
        converted=contents.converted,
        leaked=contents.leaked,
        split=contents.split,
        label_map=contents.label_map.to_json(),
        fingerprint=contents.fingerprint,
        class_pixels={name: dict(pixels) for name, pixels in facts.class_pixels.items()},
        empty_masks=dict(facts.empty_masks),
        storage=storage,
        splits={name: _table(directory, builder.info.splits[name].filenames, rows) for name, rows in facts.rows.items()},
    )
    manifest.save(directory / "manifest.json")


def _mistake_in(error: Exception) -> UserError | None:
    """The UserError of a Beam worker, which Beam hands on as the text of another exception."""
    said = re.search(r"UserError: (.*?): expected (.*?), found (.*?)\.(?: To fix it: (.*?))?(?: \[while running|\n|$)", str(error))
    return None if said is None else UserError(said[1], expected=said[2], found=said[3], cure=said[4] or "")


def _table(directory: Path, files: Iterable[str], rows: list[dict]) -> SplitTable:
    """The columns of the manifest; verifies the case id of each record."""
    files = sorted(files)
    positions = [(number, offset, length) for number, name in enumerate(files) for offset, length in tfrecord_offsets(directory / name)]
    if len(positions) != len(rows):
        raise ValueError(f"{len(rows)} examples were written, {len(positions)} records found")
    serialized = tf.data.TFRecordDataset([str(directory / name) for name in files])
    names = serialized.map(lambda s: tf.io.parse_single_example(s, {"case_id": tf.io.FixedLenFeature([], tf.string)})["case_id"])
    for row, found in zip(rows, names.as_numpy_iterator(), strict=True):
        if found.decode() != row["case_id"]:
            raise ValueError(f"the record of case {row['case_id']} holds case {found.decode()}")
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return SplitTable(
        files=tuple(files), shard=[p[0] for p in positions], offset=[p[1] for p in positions], length=[p[2] for p in positions], **columns
    )
