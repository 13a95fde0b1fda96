"""Manifest: the description of a built dataset in one JSON file, with shard and byte offset of every record.

    manifest = Manifest(dataset="my_set", ..., splits={"train": SplitTable(files=("a.tfrecord",), case_id=["x"], ...)})
    manifest.save(directory / "manifest.json")
    table = Manifest.load(directory / "manifest.json").splits["train"]
    table.case_id[index], table.files[table.shard[index]], table.offset[index]     # index = a batch's "index"

Batches carry the record's index; the host looks up case ids here. Needs no TensorFlow. The payload of the shards is not checked here; errors in it
are found when records are read.
"""

import dataclasses
import json
import math
import os
import struct
import unicodedata
from pathlib import Path
from typing import Any, Literal

from flexseg.errors import UserError
from flexseg.files.atomic import replace_file
from flexseg.files.json_files import json_type, read_json
from flexseg.files.names import check_parts

SCHEMA = 1
_REBUILD = "build the data set again with `flexseg build … --overwrite`."
_COLUMNS = {
    "case_id": str,
    "group_id": str,
    "shard": int,
    "offset": int,
    "length": int,
    "height": int,
    "width": int,
    "image_sha256": str,
    "mask_sha256": str,
}
_MOST_BYTES = 2**30  # of a manifest: 100,000 records take 30 MB
_MOST = 2**62  # of a number in a column, which becomes an int64
_MOST_SIDE = 2**20  # pixels of a height or a width
RECORD_FRAME = 16  # bytes of a TFRecord around its payload
_FRAME = struct.Struct("<QI")  # TFRecord: payload length, its masked CRC; then payload and the payload's masked CRC (4 bytes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitTable:
    """The records of a split: one list per column, each of length N; the index of a record is its row.

    Attributes:
      files: names of the shards, relative to the dataset's directory.
      case_id, group_id: as in the record.
      shard: index into `files`.
      offset: byte offset of the record's frame in the shard (as TFRecordDatasetV2 expects).
      length: bytes of the payload, without the 16 bytes of framing.
      height, width: pixels of the stored image.
      image_sha256, mask_sha256: of the source files; hex, empty where there is no source file.
    """

    files: tuple[str, ...]
    case_id: list[str]
    group_id: list[str]
    shard: list[int]
    offset: list[int]
    length: list[int]
    height: list[int]
    width: list[int]
    image_sha256: list[str]
    mask_sha256: list[str]

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in _COLUMNS}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns of equal length expected, found {lengths}")
        numbers = [*self.offset, *self.length, *self.height, *self.width]
        if any(not 0 <= number < _MOST for number in numbers) or any(not 1 <= n <= _MOST_SIDE for n in (*self.height, *self.width)):
            raise ValueError(f"offsets and lengths of at least 0, heights and widths of 1 to {_MOST_SIDE} expected")
        if any(not 0 <= shard < len(self.files) for shard in self.shard):
            raise ValueError(f"shards 0 to {len(self.files) - 1} expected, found {min(self.shard)} to {max(self.shard)}")

    def __len__(self) -> int:
        return len(self.case_id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """A built dataset.

    Attributes:
      dataset: its name (the builder's config, e.g. `my_set`).
      version: of the builder, e.g. `1.0.0`.
      channels: 1 or 3, of the stored images.
      window: (low, high), mapped to 0 and 255 in images of more than 8 bits; None where there were none.
      converted: number of images that were converted when they were stored.
      leaked: whether a group is in two splits; every report says so.
      split: the settings of the split, by name (`seed`, `proportions`, …).
      label_map: `LabelMap.to_json()`.
      fingerprint: `Inventory.fingerprint()` of the source; empty for a generated dataset.
      class_pixels: {split: {class name: pixels}}, with `ignore` for ignored pixels.
      empty_masks: {split: number of masks without foreground}.
      splits: {split: SplitTable}.
      storage: the form of the images, see `images.encoded_as`.
    """

    dataset: str
    version: str
    channels: Literal[1, 3]
    window: tuple[float, float] | None
    converted: int
    leaked: bool
    split: dict[str, Any]
    label_map: Any
    fingerprint: str
    class_pixels: dict[str, dict[str, int]]
    empty_masks: dict[str, int]
    splits: dict[str, SplitTable]
    storage: str = "as_is"  # the default of manifests without this field

    def __post_init__(self) -> None:
        if self.channels not in (1, 3) or isinstance(self.channels, bool) or not isinstance(self.leaked, bool):
            raise ValueError(f"1 or 3 channels and leaked true or false expected, found {self.channels!r} and {self.leaked!r}")
        if self.window is not None and not (all(map(math.isfinite, self.window)) and self.window[0] <= self.window[1]):
            raise ValueError(f"a window of two finite numbers in order expected, found {self.window}")
        for name in ("dataset", "version", "fingerprint", "storage"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is {json_type(getattr(self, name))}, not a text")
        if not _is_count(self.converted) or not isinstance(self.split, dict):
            raise ValueError(f"a number of converted images and the settings of the split expected, found {self.converted!r} and {self.split!r}")
        if not isinstance(self.empty_masks, dict) or not all(map(_is_count, self.empty_masks.values())):
            raise ValueError("empty_masks is no number for each split")
        for split in self.splits:
            pixels = self.class_pixels.get(split) if isinstance(self.class_pixels, dict) else None
            if not isinstance(pixels, dict) or not all(map(_is_count, pixels.values())):
                raise ValueError(f"class_pixels has no number of pixels for each class of {split}")

    def save(self, path: str | Path) -> None:
        """Writes the JSON file atomically."""
        content = {"schema": SCHEMA, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)}}
        content["splits"] = {
            name: {"files": table.files, **{column: getattr(table, column) for column in _COLUMNS}} for name, table in self.splits.items()
        }
        replace_file(path, json.dumps(content, ensure_ascii=False, allow_nan=False).encode())

    @classmethod
    def load(cls, path: str | Path) -> "Manifest":
        """Reads and checks the file.

        Raises:
          UserError: no such file, not JSON, of another schema, or with missing or mistyped parts.
        """
        path = Path(path)
        if not path.exists():
            raise UserError(
                path,
                expected="the manifest of a data set built by flexseg",
                found="no such file",
                cure="check --data_dir, or build the data set with `flexseg build`.",
            )
        try:
            content = read_json(path, most_bytes=_MOST_BYTES)
        except (ValueError, OSError) as error:
            raise UserError(path, expected="JSON", found=str(error), cure=_REBUILD) from None
        schema = content.pop("schema", None) if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise UserError(path, expected=f"a manifest of schema {SCHEMA}", found=f"schema {schema}", cure=_REBUILD)
        try:
            tables = {name: _table(name, columns) for name, columns in content.pop("splits").items()}
            window = content.pop("window")
            manifest = cls(splits=tables, window=None if window is None else (float(window[0]), float(window[1])), **content)
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error).replace("Manifest.__init__() ", "")
            raise UserError(path, expected="a whole manifest", found=reason, cure=_REBUILD) from None
        manifest.check_names(path)
        return manifest

    def check_names(self, path: Path) -> None:
        """Raises a UserError, naming `path`, for a name that becomes part of a path, a log or a table and cannot."""
        cure = "do not use this data set: flexseg writes no such name"
        check_parts(path, [self.dataset], what="a dataset", cure=cure)
        check_parts(path, self.splits, what="a split", cure=cure)
        for table in self.splits.values():
            check_parts(path, table.files, what="a shard", cure=cure)
        check_parts(path, (case_id for table in self.splits.values() for case_id in table.case_id), what="a case", cure=cure)
        groups = {group_id for table in self.splits.values() for group_id in table.group_id}
        if wrong := next((group_id for group_id in groups if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in group_id)), None):
            raise UserError(path, expected="group ids without control characters", found=repr(wrong), cure=cure)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _table(name: str, columns: dict[str, list]) -> SplitTable:
    for column, kind in _COLUMNS.items():
        if not isinstance(columns[column], list) or any(type(value) is not kind for value in columns[column]):
            raise ValueError(f"the column {name}.{column} is not a list of {kind.__name__}")
    if not isinstance(columns["files"], list):
        raise ValueError(f"{name}.files is no list")
    return SplitTable(files=tuple(columns["files"]), **{column: columns[column] for column in _COLUMNS})


def tfrecord_offsets(path: str | Path) -> list[tuple[int, int]]:
    """(byte offset of the frame, bytes of payload) of every record of a TFRecord file.

    Reads frame headers only: the checksums of the lengths are verified, those of the payloads are not.

    Raises:
      UserError: the file ends inside a record, or the checksum of a length is wrong.
    """
    records, size, offset = [], os.path.getsize(path), 0
    with open(path, "rb") as file:
        while offset < size:
            file.seek(offset)
            head = file.read(_FRAME.size)
            length, checksum = _FRAME.unpack(head) if len(head) == _FRAME.size else (size, 0)
            if len(head) == _FRAME.size and _masked_crc(head[:8]) != checksum:
                raise UserError(path, expected="a TFRecord file", found=f"a damaged record at byte {offset}", cure=_REBUILD)
            end = offset + _FRAME.size + length + 4
            if end > size:
                raise UserError(path, expected="whole records", found=f"an end after {size} bytes, inside the record at byte {offset}", cure=_REBUILD)
            records.append((offset, length))
            offset = end
    return records


def _crc_table() -> list[int]:
    """CRC-32C (Castagnoli) of each byte: reflected polynomial 0x82F63B78, RFC 3720 appendix B.4."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC_TABLE = _crc_table()


def _masked_crc(data: bytes) -> int:
    """The CRC in TFRecord's form: rotated right by 15 bits, plus 0xa282ead8 (tensorflow/core/lib/hash/crc32c.h)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF
