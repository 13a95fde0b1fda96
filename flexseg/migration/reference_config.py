"""Converts the reference system's `train_eval_infer.config` to gin bindings.

    imported = import_config("train_eval_infer.config")
    imported.bindings["train"]        # {"train.epochs": 100, ...}; also "build" and "derive"
    for row in imported.rows:         # one for every key of the file
        print(row.key, row.became)

Values are parsed as Python literals and never evaluated. Keys that the reference ignored, misspelt or read from the wrong section take their intended
meaning, and the row says so. Keys without equivalent in flexseg (`train.model_dir`: a run has one directory) are dropped with the reason.
"""

import ast
import configparser
import dataclasses
import re
from pathlib import Path
from typing import Any

from flexseg.errors import UserError
from flexseg.migration.reference_keys import KEYS
from flexseg.migration.reference_reader import Bindings, Reader, shown

_MAX_BYTES = 1_000_000
_SLIPS = {"reduer_patience": "reducer_patience", "alpah": "alpha", "datasetclass": "class_name", "diation": "dilation"}
_FOLDERS = {"train": "train.image_datapath", "valid": "eval.image_datapath", "test": "test.image_datapath", "infer": "infer.images_dir"}


@dataclasses.dataclass(frozen=True)
class Row:
    """The result for one key.

    Attributes:
      key: `section.key` as in the file.
      value: as in the file.
      became: its bindings, or the reason why it has none.
    """

    key: str
    value: str
    became: str


@dataclasses.dataclass(frozen=True)
class Imported:
    """A converted configuration.

    Attributes:
      bindings: by command ("train", "build", "derive"), {gin name: value}; a value that starts with "@" is a reference.
      rows: one for every key of the file, in its order.
      images: image folders of the file: {"train": "./dataset/TNBC/train/images/", "infer": …}.
    """

    bindings: dict[str, Bindings]
    rows: list[Row]
    images: dict[str, str]


def import_config(path: str | Path) -> Imported:
    """Converts a file.

    Raises:
      UserError: the file is no such configuration, flexseg does not have the model, or a value is no literal.
    """
    path = Path(path)
    texts = _read(path)
    values, corrected = {}, {}
    for key, text in texts.items():
        name = _canonical(key)
        if name != key:
            corrected[key] = f"corrected: the reference means {name}"
        try:
            values[name], note = _literal(text)
        except ValueError as error:
            raise UserError(path, expected=f"a number, a text in quotes or a list for {key}", found=f"{text!r} ({error})") from error
        if note:
            corrected[key] = note
    reader = Reader(values)
    for key in texts:
        rule = KEYS.get(_canonical(key))
        if rule is None:
            reader.drop(_canonical(key), "flexseg knows no such key")
        elif isinstance(rule, str):
            reader.drop(_canonical(key), rule)
        elif values[_canonical(key)] is None:
            reader.drop(_canonical(key), "it has no value")
        else:
            try:
                rule(reader, _canonical(key), values[_canonical(key)])
            except (TypeError, ValueError, AttributeError) as error:
                raise UserError(path, expected=f"a value that fits {key}", found=f"{text!r} ({error})") from error
    _finish(reader, path)
    rows = []
    for key, text in texts.items():
        became = reader.became.get(_canonical(key), [])
        rows.append(Row(key, text, "; ".join([*became, corrected[key]] if key in corrected else became)))
    folders = {split: reader.get(key) for split, key in _FOLDERS.items() if isinstance(reader.get(key), str)}
    return Imported({command: found for command, found in reader.bindings.items() if found}, rows, folders)


def gin_text(bindings: Bindings, *, comment: str) -> str:
    """The text of a gin file."""
    lines = [f"# {line}" for line in comment.splitlines()]
    return "\n".join([*lines, "", *(f"{name} = {shown(value)}" for name, value in bindings.items()), ""])


class _Parser(configparser.ConfigParser):
    """Keeps the case of keys."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def _read(path: Path) -> dict[str, str]:
    """{section.key: text}."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(path, expected="a train_eval_infer.config", found="no file")
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(path, expected="a configuration of a few kilobytes", found=f"{path.stat().st_size} bytes")
        parser = _Parser(interpolation=None, strict=False, comment_prefixes=(";", "#"), inline_comment_prefixes=(";",))
        parser.read_string(path.read_text(encoding="utf-8-sig"), source=path.name)
    except OSError as error:
        raise UserError(path, expected="a train_eval_infer.config", found=error.strerror or str(error)) from error
    except (configparser.Error, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(path, expected="sections in brackets and lines like epochs = 100", found=reason) from error
    found = {f"{section}.{key}": (text or "").strip() for section in parser.sections() for key, text in parser[section].items()}
    if not {"model", "train"} & set(parser.sections()):
        raise UserError(path, expected="the sections [model] and [train] of the reference system", found=", ".join(parser.sections()) or "no section")
    return found


def _literal(text: str) -> tuple[Any, str]:
    """(value, correction): a Python literal, a word without quotes, or the numbers of a malformed list."""
    if not text or text == "None":
        return None, ""
    try:
        return ast.literal_eval(text), ""
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    if re.fullmatch(r"[\[(][\d.,\s-]+[\])]", text):
        numbers = tuple(float(n) if "." in n else int(n) for n in re.findall(r"-?\d+(?:\.\d+)?", text))  # a ValueError beyond 4,300 digits
        if numbers:
            return numbers, f"corrected: the list has a slip and is read as {numbers}"
    if re.fullmatch(r"[\w./\\: -]+", text):
        return text, ""
    raise ValueError("no literal")


def _canonical(key: str) -> str:
    """Corrects misspelt keys of the published files."""
    section, _, name = key.partition(".")
    name = _SLIPS.get(name, name)
    if section == "model" and name in ("epoch_change_infer", "epoch_change_infer_dir", "num_infer_images", "epoch_change_tiledinfer"):
        section = "train"
    return f"{section}.{name}"


def _finish(reader: Reader, path: Path) -> None:
    """Adds the settings that the reference has no keys for."""
    train, build = reader.bindings["train"], reader.bindings["build"]
    if "build_model.architecture" not in train:
        raise UserError(path, expected="model.model", found="none")
    train.setdefault("input.fit", "resize")
    train.setdefault("augment.enabled", False)
    train.setdefault("train.monitor", "val_loss")
    if train.get("plateau.learning_rate_reducer") is not True:  # `flexseg train` refuses bindings without effect
        for name in [name for name in train if name.startswith("plateau.reducer_")]:
            del train[name]
    if not train["augment.enabled"]:
        for name in [name for name in train if name.startswith("augment.") and name != "augment.enabled"]:
            del train[name]
    if "label_map.rgb_map" not in build and reader.get("model.num_classes", 1) == 1:
        build["label_map.rgb_map"] = {(0, 0, 0): 0, (255, 255, 255): 1}
        build["label_map.off_map"] = "threshold"
    if "label_map.rgb_map" in build:
        build.setdefault("label_map.off_map", "nearest")
