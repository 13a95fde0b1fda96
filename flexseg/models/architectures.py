"""All networks of flexseg by name, as gin knows them: `build_model.architecture = @u2net`.

A network is found by its file: a file of this folder whose function of the file's own name stands under `@architecture`.
"""

import importlib
from collections.abc import Callable
from pathlib import Path

import keras


def _networks() -> dict[str, Callable[..., keras.Model]]:
    """{name: function}: flex_unet, the default, then the others by name."""
    # The text is looked at first: to import every file would draw in build.py, which imports this one, and matplotlib.
    files = [path for path in Path(__file__).parent.glob("*.py") if f"\n@architecture\ndef {path.stem}(" in path.read_text(encoding="utf-8")]
    names = sorted((path.stem for path in files), key=lambda name: (name != "flex_unet", name))
    return {name: getattr(importlib.import_module(f"flexseg.models.{name}"), name) for name in names}


ARCHITECTURES = _networks()
