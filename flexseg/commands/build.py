"""Build a dataset: images and masks become TFRecords with class ids.

    flexseg build --dataset=image_mask_folder --name=my_set --source=my_folder --data_dir=data

All files are checked before anything is written. An error names the file and the flag to change. Label map and split are bound with --gin_param, e.g.
--gin_param="label_map.rgb_map={(0,0,0):0,(255,255,255):1}".
"""

import contextlib
import importlib
import os
import shlex
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

from flexseg.commands.config_flags import Positive, flags_of, values
from flexseg.commands.quiet import hide_gpus, load_tensorflow

_SUFFIX = "_dataset_builder"  # TFDS's naming: datasets/tnbc/tnbc_dataset_builder.py
DATASETS = tuple(sorted(folder.name for folder in resources.files("flexseg.datasets").iterdir() if (folder / f"{folder.name}{_SUFFIX}.py").is_file()))


def run(
    *,
    dataset: str = "image_mask_folder",
    name: str | None = None,
    source: str | None = None,
    data_dir: str = "data",
    image_pattern: str | None = None,
    mask_pattern: str | None = None,
    group_pattern: str | None = None,
    group_column: str | None = None,
    max_image_pixels: Positive = 150_000_000,
    num_shards: Positive | None = None,
    storage: Literal["as_is", "png", "jpeg", "raw"] = "as_is",
    beam_runner: str | None = None,
    beam_option: Sequence[str] = (),
    overwrite: bool = False,
    gin_file: Sequence[str] = (),
    gin_param: Sequence[str] = (),
    user_module: Sequence[str] = (),
) -> str:
    """Builds a dataset and returns its directory.

    Args:
      dataset: The dataset builder: a folder of flexseg.datasets, or NAME with --user_module=NAME_dataset_builder.
      name: Name of the built dataset; default the value of --dataset.
      source: The folder of images and masks, or a zip file of it.
      num_shards: TFRecord shards per split; default by size.
      storage: Encoding of the images; jpeg is lossy. Masks are PNG.
      beam_runner: Generate examples with Apache Beam: DirectRunner, DataflowRunner, FlinkRunner, …
      beam_option: A pipeline option, e.g. --direct_num_workers=2. Repeatable.
      overwrite: Replace a dataset of this name with other content.
    """
    from flexseg.errors import UserError, printable
    from flexseg.files.names import check_name
    from flexseg.user_modules import typed

    if beam_option and not beam_runner:
        raise UserError("--beam_option", expected="--beam_runner beside it", found="none", cure="--beam_runner=DirectRunner")
    name = name or dataset
    check_name("--name", name)
    user_module = typed(user_module)
    module = _builder_module(dataset, user_module)
    load_tensorflow()
    bindings = _configured(module, gin_file, gin_param, user_module)

    from flexseg.console import progress
    from flexseg.datasets.building import Beam, build_dataset
    from flexseg.datasets.contents import SourceOptions
    from flexseg.files.label_map import LabelMap
    from flexseg.files.split import Split

    bound = frozenset(key.split(".")[0] for key in bindings)
    with progress("checking", unit="case") as bar:
        options = SourceOptions(
            source=source,
            image_pattern=image_pattern,
            mask_pattern=mask_pattern,
            group_pattern=group_pattern,
            group_column=group_column,
            max_image_pixels=max_image_pixels,
            label_map=LabelMap() if {"label_map.rgb_map", "label_map.values"} & bindings else None,
            bound=bound,
            split=Split() if "split" in bound else None,
            warn=lambda sentence: print(printable(f"warning: {sentence}"), flush=True),
            progress=bar.at,
            data_dir=Path(data_dir),
        )
        builder = importlib.import_module(module)
        contents = builder.open_source(options)
        if storage == "jpeg":
            options.warn("--storage=jpeg loses detail: what is trained and scored on is not, to the last grey level, what the files hold")
    with _one_at_a_time(Path(data_dir), f".building_{dataset}_{name}.lock"), progress("building", unit="case") as bar:
        directory, written = build_dataset(
            builder.Builder,
            contents,
            dataset=dataset,
            name=name,
            data_dir=data_dir,
            overwrite=overwrite,
            num_shards=num_shards,
            storage=storage,
            beam=Beam(beam_runner, tuple(beam_option)) if beam_runner else None,
            progress=bar.at,
        )
    print(_summary(directory, written))
    print("\nnext:", shlex.join(["flexseg", "train", f"--dataset={name}", f"--data_dir={data_dir}", f"--workdir=runs/{name}"]))
    return str(directory)


FLAGS = flags_of(run)


def _builder_module(dataset: str, user_modules: Sequence[str]) -> str:
    """The module with `Builder` and `open_source` of a dataset: one of flexseg.datasets, or a user module named `…NAME_dataset_builder`.

    Raises:
      UserError: there is none of that name.
    """
    from flexseg.errors import UserError, suggest

    own = {module.rpartition(".")[2].removesuffix(_SUFFIX): module for module in user_modules if module.endswith(_SUFFIX)}
    if dataset in own:
        return own[dataset]
    if dataset in DATASETS:
        return f"flexseg.datasets.{dataset}.{dataset}{_SUFFIX}"
    names = [*DATASETS, *own]
    cure = f"one of your own: --user_module=NAME{_SUFFIX}.{suggest(dataset, names)}"
    raise UserError("--dataset", expected="one of " + ", ".join(names), found=repr(dataset), cure=cure)


@contextlib.contextmanager
def _one_at_a_time(data_dir: Path, lock: str) -> Iterator[None]:
    """Makes the folder and locks it for builds of one name; one that is refused leaves no new folder."""
    from flexseg.files.atomic import make_folder
    from flexseg.runs.lock import FolderLock

    fresh = not data_dir.exists()
    if data_dir.is_dir() and not os.access(data_dir, os.W_OK):  # nothing can be written: what is built already can be looked at
        yield
        return
    try:
        with FolderLock(make_folder(data_dir, flag="--data_dir") / lock, what="flexseg build", flag="--name"):
            yield
    except BaseException:
        if fresh:
            with contextlib.suppress(OSError):
                data_dir.rmdir()
        raise


def _configured(module: str, gin_file: Sequence[str], gin_param: Sequence[str], user_module: Sequence[str]) -> frozenset[str]:
    """Parses the bindings of a build, prints a note for those without effect, and returns the names of all."""
    from flexseg.config.configure import configure
    from flexseg.config.effects import idle_bindings

    own = [] if module in user_module else [module]
    configuration = configure(gin_file, gin_param, modules=("flexseg.files.label_map", "flexseg.files.split", *own), user_modules=user_module)
    print("".join(f"{note}\n" for note in idle_bindings(configuration)), end="")
    return frozenset(configuration.bindings)


def _summary(directory: Path, written: bool) -> str:
    from flexseg.files.manifest import Manifest

    manifest = Manifest.load(directory / "manifest.json")
    lines = [f"{'built' if written else 'already built, nothing changed'}: {directory}"]
    for split, table in manifest.splits.items():
        pixels = manifest.class_pixels[split]
        every = sum(pixels.values())
        shares = ", ".join(f"{name} {count / every:.2%}" for name, count in pixels.items())
        lines.append(
            f"  {split}: {len(table)} cases in {len(set(table.group_id))} groups; {shares}; {manifest.empty_masks.get(split, 0)} empty masks"
        )
    if manifest.converted:
        window = f", values {manifest.window[0]:g} to {manifest.window[1]:g} mapped to 0 to 255" if manifest.window else ""
        lines.append(f"  {manifest.converted} of the images were converted to 8-bit PNG{window}")
    if manifest.leaked:
        lines.append("  LEAKED: groups stand in two splits; every report on this dataset will say so")
    return "\n".join(lines)


def main(args: Sequence[str]) -> int:
    """The command."""
    hide_gpus()
    run(**values(FLAGS))
    return 0
