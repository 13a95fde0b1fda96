"""Creates the flags of a command from the signature and the docstring of its `run`.

    def run(*, workdir: str, replicas: Positive = 1, gin_param: Sequence[str] = ()) -> dict:     # flexseg.evaluate(...)
        \"""Scores a split and returns the report.

        Args:
          workdir: The run directory.
          replicas: GPUs to use.
        \"""

    FLAGS = flags_of(run)

    def main(args):
        run(**values(FLAGS))

A parameter without a sentence takes that of SHARED. Each command has its own registry: a notebook may import several commands that define the same
flag, which absl's global registry refuses.
"""

import inspect
import re
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from absl import flags

from flexseg.config.docstrings import sentences_of


class AtLeast(typing.NamedTuple):
    """The lower bound of an integer."""

    bound: int


class Commas:
    """Marks a list that is one flag with commas; other lists repeat their flag."""


Natural = Annotated[int, AtLeast(0)]
Positive = Annotated[int, AtLeast(1)]
CommaSeparated = Annotated[Sequence[str], Commas]

SHARED = {
    "gin_file": "A gin file: a path, or the name of a shipped one such as default.gin. Repeatable; a later file overrides an earlier one.",
    "gin_param": "A binding such as train.epochs=3 or \"label_map.off_map='nearest'\". Repeatable; overrides the files.",
    "user_module": "A Python module of yours (my_models) that registers models, losses or metrics with gin. Repeatable;"
    " FLEXSEG_USER_MODULES names more, between commas.",
    "image_pattern": "Stem of the images, e.g. '{case}_img'; default '{case}'.",
    "mask_pattern": "Stem of the masks, e.g. '{case}_mask'; default '{case}'.",
    "group_pattern": "Regular expression with one capturing group, searched in the stem of each image: patient, slide or tile.",
    "group_column": "Column of groups.csv that names the group; default 'group'.",
    "max_image_pixels": "Limit on the pixels of an image, checked before decoding.",
    "data_dir": "Directory of built datasets (TFDS data_dir).",
    "workdir": "The run directory.",
    "checkpoint": "The weights to use: best by train.monitor, or last.",
    "replicas": "GPUs to use.",
    "logical_cpus": "Use this many logical CPU devices instead.",
}


def flags_of(function: Callable) -> flags.FlagValues:
    """A registry with one flag for each keyword-only parameter of `run`.

    Args:
      function: its annotations are bool, int, str (or None), Literal, Natural, Positive, Sequence[str] or CommaSeparated.

    Raises:
      TypeError: a parameter has another annotation.
      KeyError: a parameter has a sentence neither in the docstring's `Args:` nor in SHARED.
    """
    registry = flags.FlagValues()
    sentences = SHARED | sentences_of(function)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            default = None if parameter.default is inspect.Parameter.empty else parameter.default
            _define(registry, parameter.name, parameter.annotation, default, sentences[parameter.name])
    return registry


def _define(registry: flags.FlagValues, name: str, annotation: Any, default: Any, meaning: str) -> None:
    kind: Any = annotation
    notes: list[object] = []
    if typing.get_origin(kind) is Annotated:
        kind, *notes = typing.get_args(kind)
    options = [part for part in typing.get_args(kind) if part is not type(None)]
    if type(None) in typing.get_args(kind):
        kind = options[0]
        if typing.get_origin(kind) is Annotated:
            kind, *notes = typing.get_args(kind)
    least = next((note.bound for note in notes if isinstance(note, AtLeast)), None)
    if typing.get_origin(kind) is Literal:
        flags.DEFINE_enum(name, default, list(typing.get_args(kind)), meaning, flag_values=registry)
    elif kind is bool:
        flags.DEFINE_boolean(name, default, meaning, flag_values=registry)
    elif kind is int:
        flags.DEFINE_integer(name, default, meaning, flag_values=registry, lower_bound=least)
    elif kind is str:
        flags.DEFINE_string(name, default, meaning, flag_values=registry)
    elif typing.get_origin(kind) is Sequence and Commas in notes:
        flags.DEFINE_list(name, [str(part) for part in default or ()], meaning, flag_values=registry)
    elif typing.get_origin(kind) is Sequence:
        flags.DEFINE_multi_string(name, list(default or ()), meaning, flag_values=registry)
    else:
        raise TypeError(f"--{name}: no flag is made of {annotation!r}")


class FlagText(typing.NamedTuple):
    """A flag as help and documents show it.

    Attributes:
      spelling: "--[no]overwrite".
      default: "" for none.
      meaning: its sentences, with the choices of an enum.
    """

    spelling: str
    default: str
    meaning: str


def texts_of(registry: flags.FlagValues) -> list[FlagText]:
    """The flags of a command, in the order of its `run`."""
    found = []
    for name in registry:
        flag = registry[name]
        default = "" if flag.default is None or flag.default == [] else str(flag.default_as_str)[1:-1]
        choices = f" One of {', '.join(map(str, flag.parser.enum_values))}." if hasattr(flag.parser, "enum_values") else ""
        meaning = (flag.help or "").partition(";\n")[0]  # absl appends a sentence on repetition
        meaning = re.sub(r"^<[\w|]+>: ", "", meaning)  # and prepends the choices of an enum
        found.append(FlagText(f"--{'[no]' if flag.boolean else ''}{name}", default, f"{meaning}{choices}"))
    return found


def values(registry: flags.FlagValues) -> dict[str, Any]:
    """{flag: value} of all flags of a command, the keyword arguments of its `run`."""
    return registry.flag_values_dict()
