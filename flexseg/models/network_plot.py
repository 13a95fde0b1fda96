"""A network on one page: its parts from left to right as they are computed, from top to bottom by the size of their maps, and what flows where.

    plot_network(model, Path("u2net.png"))

A part is what its layers' names begin with: encoder_0 is encoder_0_conv_a, encoder_0_norm_a and so on; of a network of many parts fewer words count.
What flows back into a part that it came from is a part of its own, so that arrows lead to the right.
"""

import io
import itertools
import math
import re
from pathlib import Path
from typing import Any

import keras
from matplotlib.figure import Figure

from flexseg.files.atomic import replace_file

_LAST_WORDS = re.compile(r"(_(conv|norm|act|dropout|pool|up|concat|add|shortcut|multiply|sigmoid|signal|skip|factor|raise|parts|[a-z]))+$")
_NUMBERED = re.compile(r".*?[a-z]_?\d+(?=_|$)")
_PARTS_AT_MOST = 32
_OUTPUT, _PLAIN = (0.1, 0.5, 0.2), "0.3"  # edges of boxes
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
    largest = max(part["parameters"] for part in parts.values()) or 1
    boxes = {}
    for index, (name, part) in enumerate(parts.items()):
        text = "\n".join([name, *part["source"], " × ".join(map(str, part["shape"])), _short(part["parameters"])])
        share = math.sqrt(part["parameters"] / largest)
        box: dict[str, Any] = {"boxstyle": "round,pad=0.35", "facecolor": (1 - 0.45 * share, 1 - 0.25 * share, 1.0)}
        box |= {"edgecolor": _OUTPUT, "linewidth": 2.5} if part["output"] else {"edgecolor": _PLAIN}
        words = axes.text(index, -heights[name], text, ha="center", va="center", fontsize=7, bbox=box, zorder=4)  # arrows pass behind
        boxes[name] = words.get_bbox_patch()
    axes.set(xlim=(-0.7, len(names) - 0.3), ylim=(-max(heights.values()) - 0.6, 0.6))
    axes.axis("off")
    for source, target in flows:
        first, last = names.index(source), names.index(target)
        distance, bend = last - first, 0.0
        if heights[source] != heights[target]:
            bend = min(0.2, 0.03 * distance) if distance > 1 else 0.0
        elif any(heights[name] == heights[source] for name in names[first + 1 : last]):  # a straight one would end behind these
            bend = -min(0.25, 0.8 / distance)
        arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": "0.55" if distance > 1 else "0.2", "connectionstyle": f"arc3,rad={bend}"}
        arrow |= {"patchA": boxes[source], "patchB": boxes[target], "shrinkA": 1, "shrinkB": 1}
        axes.annotate("", (last, -heights[target]), (first, -heights[source]), arrowprops=arrow)
    total = sum(part["parameters"] for part in parts.values())
    outputs = "green frames: outputs" if len(model.outputs) > 1 else "green frame: the output"
    said = f"{model.name}: {total:,} parameters\na box: part, size and channels of its map, parameters (the bluer the more); {outputs}"
    axes.set_title(said, fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:])
    replace_file(path, picture.getvalue())


def _parts(model: keras.Model) -> tuple[dict[str, dict], list[tuple[str, str]]]:
    """({part: its largest map's shape, its parameters and so on} in an order to do them in, the pairs of parts that a tensor goes from and to)."""
    parts: dict[str, dict] = {}
    made_by: dict[int, str] = {}
    flows: dict[tuple[str, str], None] = {}
    outputs = {id(tensor) for tensor in model.outputs}
    for operation, name in zip(model.operations, _part_names(model.operations), strict=True):
        shape = tuple(keras.tree.flatten(operation.output)[-1].shape[1:])
        new: dict[str, Any] = {"shape": (), "parameters": 0, "output": False, "source": []}
        part = parts[name] = parts.pop(name, new)  # to the end: a part stands where its last layer does
        if math.prod(shape[:-1]) >= math.prod(part["shape"][:-1]):  # a pooled map is the next part's
            part["shape"] = shape
        part["parameters"] += sum(math.prod(v.shape) for v in getattr(operation, "weights", ()) if not v.path.endswith("seed_generator_state"))
        part["source"] += [operation.source.name] if hasattr(operation, "source") else []  # of an encoder
        part["output"] |= any(id(tensor) in outputs for tensor in keras.tree.flatten(operation.output))
        for tensor in _inputs(operation):
            if made_by.get(id(tensor), name) != name:
                flows[made_by[id(tensor)], name] = None
        made_by |= {id(tensor): name for node in operation._inbound_nodes for tensor in node.output_tensors}
    return _in_order(parts, flows), list(flows)


def _in_order(parts: dict[str, dict], flows: dict[tuple[str, str], None]) -> dict[str, dict]:
    """Each part behind all that it comes from, otherwise as they stand."""
    left = dict(parts)
    done: dict[str, dict] = {}
    while left:
        name = next(name for name in left if not any(source in left for source, target in flows if target == name))
        done[name] = left.pop(name)
    return done


def _inputs(operation: keras.Operation) -> list:
    return [tensor for node in operation._inbound_nodes for tensor in node.input_tensors]  # `.input` of a model within the model would be its own


def _part_names(operations: list) -> list[str]:
    """The part of each operation, by the longest names that give no more than _PARTS_AT_MOST parts; names that Keras gave may make more."""

    def words(name: str, most: int) -> str:
        match = _NUMBERED.match(name)
        return "_".join((match[0] if match else _LAST_WORDS.sub("", name) or name).split("_")[:most])

    for most in (9, 2, 1):
        names = _without_cycles(operations, [words(operation.name, most) for operation in operations])
        if len(set(names)) <= _PARTS_AT_MOST:
            break
    return names


def _without_cycles(operations: list, keys: list[str]) -> list[str]:
    """`keys`; but where a part would flow into itself by way of another one, it goes on as a new part of the operation's name."""
    present: dict[str, str] = {}
    before: dict[str, set[str]] = {}  # part -> all parts that it comes from
    made_by: dict[int, str] = {}
    names = []
    for operation, key in zip(operations, keys, strict=True):
        sources = {made_by[id(tensor)] for tensor in _inputs(operation) if id(tensor) in made_by}
        name = present.setdefault(key, key)
        if any(name in before[source] for source in sources - {name}):
            candidates = itertools.chain([operation.name], (f"{key}_{number}" for number in itertools.count(2)))
            name = present[key] = next(name for name in candidates if name not in before)
        come = before.setdefault(name, set())
        for source in sources - {name}:
            come |= {source} | before[source]
        for others in before.values():  # what comes from this part comes from its sources too
            if name in others:
                others |= come
        made_by |= {id(tensor): name for node in operation._inbound_nodes for tensor in node.output_tensors}
        names.append(name)
    return names


def _halvings(image: tuple[int, int], shape: tuple[int, ...]) -> float:
    """How often the image is halved to a map [h, w, channels] or to tokens [n, channels]."""
    return math.log2(math.prod(image) / math.prod(shape[:-1])) / 2


def _short(number: int) -> str:
    """12,345,678 as 12.3 M."""
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.1f} k" if number >= 1e3 else str(number)
