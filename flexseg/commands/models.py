"""List the networks: parameters, GMAC and activation memory per image, and training speed on this machine.

    flexseg models                                            # every network with its small settings
    flexseg models --published --nomeasure                    # with its published settings, no training
    flexseg models --gin_file=models/u2net.gin --image_size=320 --gin_param="u2net.base_filters=32" --plot=u2net.png
    flexseg models --user_module=my_models --gin_param="build_model.architecture=@my_net"

GMAC: 10⁹ multiply-accumulate operations of a forward pass; a training step takes about three times as many. Activations: the outputs of the
operations of a forward pass, which the backward pass may need. Images/s and peak memory are measured for training steps with Adam, without input
pipeline and validation, each network in its own process.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from flexseg.commands.config_flags import AtLeast, CommaSeparated, Positive, flags_of, values

if TYPE_CHECKING:
    import keras

    from flexseg.config.configure import Configuration

_COLUMNS = ("network", "parameters", "GMAC", "activations", "images/s", "memory")
_MIB, _GIB = 2**20, 2**30


def run(
    *,
    published: bool = False,
    image_size: CommaSeparated = ("256",),
    image_channels: Positive = 3,
    num_classes: Annotated[int, AtLeast(2)] = 2,
    batch_size: Positive = 4,
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto",
    measure: bool = True,
    json: bool = False,
    plot: str | None = None,
    gin_file: Sequence[str] = (),
    gin_param: Sequence[str] = (),
    user_module: Sequence[str] = (),
) -> list[dict]:
    """Prints a table and returns its rows.

    Args:
      published: List the published settings instead of the small ones.
      image_size: Height and width of the input in pixels, or one number for both.
      image_channels: Channels of the images.
      num_classes: Number of classes, including background.
      batch_size: Images per training step.
      precision: Compute dtype; auto: the choice of train.precision='auto' on this machine.
      measure: Train for some seconds; --nomeasure lists sizes only.
      json: Print one JSON object per line.
      plot: PNG or SVG file of one network, described by --gin_file and --gin_param.
    """
    from flexseg.errors import UserError
    from flexseg.user_modules import typed

    size, one = _size(image_size), bool(gin_file or gin_param or user_module)
    user_module = typed(user_module)
    if published and one:
        raise UserError("--published", expected="no --gin_file, --gin_param or --user_module beside it", found="one that describes a single network")
    if plot and (not one or Path(plot).suffix not in (".png", ".svg")):
        cure = "flexseg models --gin_file=models/u2net.gin --plot=u2net.png"
        raise UserError("--plot", expected="a .png or .svg file, and the network by --gin_file or --gin_param", found=plot, cure=cure)
    for param in gin_param:
        if param.partition("=")[0].strip() == "input.image_size":
            raise UserError("--gin_param", expected="--image_size, at which the networks are listed", found=param, cure="--image_size=256,512")
    facts = {"image_channels": image_channels, "num_classes": num_classes, "batch_size": batch_size, "precision": precision}
    if not json:
        print(_line(dict(zip(_COLUMNS, _COLUMNS, strict=True))), flush=True)
    rows = []
    if one:
        rows.append(_row(size, facts, measure=measure, plot=plot, gin_file=gin_file, gin_param=gin_param, user_module=user_module))
        _show(rows[-1], as_json=json)
    else:
        for config in _configs(published=published):
            rows.append(_row_of_another_process(config, size, facts, measure=measure))
            _show(rows[-1], as_json=json)
    if not json:
        policies = " and ".join({row["precision"]: None for row in rows if "precision" in row})
        print(f"\n{size[0]} × {size[1]} × {image_channels}, {num_classes} classes, batches of {batch_size}, {policies or precision}")
        if plot:
            print(f"drawn: {plot}")
    return rows


FLAGS = flags_of(run)


def _size(image_size: Sequence[int | str]) -> tuple[int, int]:
    from flexseg.errors import UserError

    sides = [int(side) for side in image_size if str(side).strip().isdigit()]
    if len(sides) != len(image_size) or len(sides) not in (1, 2) or 0 in sides:
        cure = "--image_size=256 or --image_size=256,512"
        raise UserError("--image_size", expected="one or two numbers of pixels", found=",".join(map(str, image_size)), cure=cure)
    return (sides[0], sides[-1])


def _configs(*, published: bool) -> list[str]:
    folder = Path(str(resources.files("flexseg.configs"))) / "models"
    return [f"models/{path.name}" for path in sorted(folder.glob("*.gin")) if path.stem.endswith("_small") != published]


def _row(
    size: tuple[int, int],
    facts: dict,
    *,
    measure: bool,
    plot: str | None,
    gin_file: Sequence[str],
    gin_param: Sequence[str],
    user_module: Sequence[str],
) -> dict:
    """The row of the network that the bindings describe."""
    from flexseg.commands.quiet import load_tensorflow
    from flexseg.config.configure import configure
    from flexseg.config.effects import idle_bindings, refuse_supplied
    from flexseg.errors import UserError

    load_tensorflow()
    configuration = configure(gin_file, gin_param, modules=("flexseg.training.assembly",), user_modules=user_module)
    refuse_supplied(configuration, {name: f"--{name}=…" for name in ("image_size", "image_channels", "num_classes")})
    idle_bindings(configuration)
    from flexseg.models.abstract_build import abstract_build
    from flexseg.models.build import build_model
    from flexseg.models.cost import cost_of
    from flexseg.training.precision import precision_scope, resolve_precision

    def build() -> "keras.Model":
        try:
            return build_model(image_size=size, channels=facts["image_channels"], classes=facts["num_classes"])
        except UserError as error:
            if error.where == "input.image_size":
                cure = re.sub(r'--gin_param="input\.image_size=\((\d+), ?(\d+)\)"', r"--image_size=\1,\2", error.cure)
                raise UserError("--image_size", expected=error.expected, found=error.found, cure=cure) from error
            if error.where == "build_model.num_classes":
                expected = error.expected.replace("the dataset's LabelMap has", "--num_classes says")
                raise UserError(error.where, expected=expected, found=error.found, cure="--num_classes=…, as many as the dataset has") from error
            raise

    on_gpu = _on_gpu()
    policy = resolve_precision(facts["precision"], on_gpu=on_gpu)
    with precision_scope(policy), abstract_build():
        model = build()
        _refuse_unused(configuration)
        cost = cost_of(model)
    row = {"network": model.name, "settings": list(gin_file), "image_size": size, "precision": policy, "batch_size": facts["batch_size"]}
    row |= {"parameters": cost.parameters, "macs": cost.macs, "activation_bytes": cost.activation_bytes}
    if plot:
        from flexseg.models.network_plot import plot_network

        plot_network(model, Path(plot))
    if measure:
        from flexseg.training.speed import training_speed

        speed = training_speed(build, batch_size=facts["batch_size"], precision=policy)
        row |= {"images_per_second": speed.images_per_second, "memory_bytes": speed.memory_bytes}
    return row


def _refuse_unused(configuration: "Configuration") -> None:
    """Refuses flags that do not concern a network, such as train.epochs=3. Files may hold whole experiments."""
    from flexseg.errors import UserError

    used = f"\n{configuration.operative()}"
    for key, value in configuration.bindings.items():
        if configuration.sources[key].startswith("--gin_param") and f"\n{key} = " not in used:
            found = f"{value}, which changes nothing here"
            raise UserError(f"--gin_param={key}", expected="bindings of the network", found=found, cure="leave it out")


def _on_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _row_of_another_process(config: str, size: tuple[int, int], facts: dict, *, measure: bool) -> dict:
    """The row of a network, measured in its own process, so that its memory is separate and a failure ends only that row."""
    words = [f"--gin_file={config}", f"--image_size={size[0]},{size[1]}", "--json", *(f"--{name}={value}" for name, value in facts.items())]
    words += [] if measure else ["--nomeasure"]
    command = [sys.executable, "-P", "-m", "flexseg.commands.dispatcher", "models", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    said = done.stderr.strip().splitlines()
    failure = said[-1].removeprefix("flexseg models: ") if said else f"ended by signal {-done.returncode}"
    return {"network": config.removeprefix("models/").removesuffix(".gin"), "settings": [config], "failure": failure}


def _show(row: dict, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(row), flush=True)
    elif "failure" in row:
        print(f"{row['network']:<24}  {row['failure']}", flush=True)
    else:
        name = row["settings"][-1].removeprefix("models/").removesuffix(".gin") if row["settings"] else row["network"]
        cells = {"network": name, "parameters": f"{row['parameters']:,}", "GMAC": f"{row['macs'] / 1e9:.2f}"}
        cells["activations"] = f"{row['activation_bytes'] / _MIB:.0f} MiB"
        if "memory_bytes" in row:
            cells |= {"images/s": f"{row['images_per_second']:.1f}", "memory": f"{row['memory_bytes'] / _GIB:.2f} GiB"}
        print(_line(cells), flush=True)


def _line(cells: dict[str, str]) -> str:
    network, *others = (cells.get(column, "") for column in _COLUMNS)
    return f"{network:<24}" + "".join(f"{cell:>14}" for cell in others)


def main(args: Sequence[str]) -> int:
    """The command."""
    run(**values(FLAGS))
    return 0
