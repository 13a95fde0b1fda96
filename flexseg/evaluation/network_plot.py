"""A network on one page: its parts from left to right as they are computed, from top to bottom by the size of their maps, and what flows where.

    plot_network(model, Path("u2net.png"))

A part is what its layers' names begin with: encoder_0 is encoder_0_conv_a, encoder_0_norm_a and so on; of a network of many parts fewer words count.
"""

import io
import math
import re
from pathlib import Path

import keras
from matplotlib.figure import Figure

from flexseg.files.atomic import replace_file

_LAST_WORDS = re.compile(r"(_(conv|norm|act|dropout|pool|up|concat|add|shortcut|multiply|sigmoid|signal|skip|factor|raise|parts|[a-z]))+$")
_PARTS_AT_MOST = 32
_WIDTH, _HEIGHT = 1.15, 0.9  # inches a part and a halving


def plot_network(model: keras.Model, path: Path) -> None:
    """Draws a model to a .png or .svg file; its weights need no values.

    Args:
      model: made with Keras's functional API.
      path: replaced once the picture is whole.
    """
    parts, flows = _parts(model)
    image = model.input.shape[1:3]
    names = list(parts)
    heights = {name: _halvings(image, parts[name]["shape"]) for name in names}
    figure = Figure(figsize=(max(6, _WIDTH * len(names)), 2 + _HEIGHT * (1 + max(heights.values()))), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for source, target in flows:
        distance = names.index(target) - names.index(source)
        bend = "arc3,rad=0" if distance == 1 or heights[source] == heights[target] else f"arc3,rad={min(0.2, 0.03 * distance)}"
        arrow = {"arrowstyle": "-|>", "color": "0.55" if distance > 1 else "0.2", "connectionstyle": bend, "shrinkA": 16, "shrinkB": 16}
        axes.annotate("", (names.index(target), -heights[target]), (names.index(source), -heights[source]), arrowprops=arrow)
    largest = max(part["parameters"] for part in parts.values()) or 1
    for place, (name, part) in enumerate(parts.items()):
        text = f"{name}\n{' × '.join(map(str, part['shape']))}\n{_short(part['parameters'])}"
        share = math.sqrt(part["parameters"] / largest)
        box = {"boxstyle": "round,pad=0.35", "facecolor": (1 - 0.45 * share, 1 - 0.25 * share, 1.0), "edgecolor": "0.3"}
        axes.text(place, -heights[name], text, ha="center", va="center", fontsize=7, bbox=box)
    axes.set(xlim=(-0.7, len(names) - 0.3), ylim=(-max(heights.values()) - 0.6, 0.6))
    axes.axis("off")
    total = sum(part["parameters"] for part in parts.values())
    axes.set_title(f"{model.name}: {total:,} parameters; a box: part, size and channels of its map, parameters (the bluer the more)", fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:])
    replace_file(path, picture.getvalue())


def _parts(model: keras.Model) -> tuple[dict[str, dict], list[tuple[str, str]]]:
    """({part: its largest map's shape, and its parameters} in the order they are done, the pairs of parts that a tensor goes from and to)."""
    parts: dict[str, dict] = {}
    made_by: dict[int, str] = {}
    flows: dict[tuple[str, str], None] = {}
    named = _part_names([operation.name for operation in model.operations])
    for operation, name in zip(model.operations, named, strict=True):
        shape = tuple(keras.tree.flatten(operation.output)[-1].shape[1:])
        part = parts[name] = parts.pop(name, {"shape": (), "parameters": 0})  # to the end: a part stands where its last layer does
        if math.prod(shape[:-1]) >= math.prod(part["shape"][:-1]):  # a pooled map is the next part's
            part["shape"] = shape
        part["parameters"] += sum(math.prod(v.shape) for v in getattr(operation, "weights", ()) if not v.path.endswith("seed_generator_state"))
        for node in operation._inbound_nodes:  # `operation.input` of a model within the model would be its own input
            for tensor in node.input_tensors:
                if made_by.get(id(tensor), name) != name:
                    flows[made_by[id(tensor)], name] = None
            made_by |= {id(tensor): name for tensor in node.output_tensors}
    return parts, list(flows)


def _part_names(names: list[str]) -> list[str]:
    """The part of each operation: its name without the words of _LAST_WORDS, or no more than its first words where that gives too many parts."""
    parts = [_LAST_WORDS.sub("", name) or name for name in names]
    for words in (4, 3, 2, 1):
        if len(set(parts)) <= _PARTS_AT_MOST:
            break
        parts = ["_".join(part.split("_")[:words]) for part in parts]
    return parts


def _halvings(image: tuple[int, int], shape: tuple[int, ...]) -> float:
    """How often the image is halved to a map [h, w, channels] or to tokens [n, channels]."""
    return math.log2(math.prod(image) / math.prod(shape[:-1])) / 2


def _short(number: int) -> str:
    """12,345,678 as 12.3 M."""
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.1f} k" if number >= 1e3 else str(number)
