"""Reader: collects gin bindings while the keys of a reference configuration are converted.

Usage:
    reader = Reader({"train.epochs": 100})
    reader.bind("train.epochs", "train", "train.epochs", 100)
    reader.bindings["train"], reader.became["train.epochs"]      # {"train.epochs": 100}, ["train.epochs = 100"]
"""

from collections.abc import Callable
from typing import Any

Bindings = dict[str, Any]


def shown(value: Any) -> str:
    """A value in gin syntax."""
    return value if isinstance(value, str) and value.startswith("@") else repr(value)


class Reader:
    """The keys of a reference configuration and their bindings.

    Args:
      values: by `section.key`.

    Attributes:
      bindings: by command, {gin name: value}.
      became: by `section.key`, the results in words.
    """

    def __init__(self, values: dict[str, Any]):
        self.values = values
        self.bindings: dict[str, Bindings] = {"train": {}, "build": {}, "derive": {}}
        self.became: dict[str, list[str]] = {}

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or `default`."""
        return self.values.get(key, default)

    def bind(self, key: str, command: str, name: str, value: Any) -> None:
        """Adds a binding and records its key."""
        self.bindings[command][name] = value
        target = "" if command == "train" else f" (flexseg {command})"
        self.became.setdefault(key, []).append(f"{name} = {shown(value)}{target}")

    def drop(self, key: str, why: str) -> None:
        """Records the reason why a key is dropped."""
        self.became.setdefault(key, []).append(f"dropped: {why}")

    def refer(self, key: str, other: str) -> None:
        """Records that a key is read together with another one."""
        self.became.setdefault(key, []).append(f"read with {other}")


Rule = Callable[[Reader, str, Any], None]
