"""Convert a configuration of the reference system (train_eval_infer.config) to gin files.

    flexseg import_config train_eval_infer.config --output=tnbc

Writes tnbc.gin for `flexseg train` and, where the file has settings for them, tnbc_build.gin and tnbc_derive.gin. Prints for every key its bindings
or the reason why it was dropped. Nothing in the file is executed. Checkpoints are not converted.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from flexseg.commands.config_flags import flags_of, values

POSITIONAL = "FILE.config"


def run(
    config: str,
    *,
    output: str | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Writes the gin files and returns their paths.

    Args:
      config: The configuration file of the reference system.
      output: Path of the gin files, without .gin; default the name of the file, in the current directory.
      overwrite: Replace existing gin files.
    """
    from flexseg.errors import UserError, printable
    from flexseg.files.atomic import replace_file
    from flexseg.migration.reference_config import gin_text, import_config

    imported = import_config(config)
    prefix = Path(output or Path(config).stem)
    paths = {command: prefix.with_name(prefix.name + ("" if command == "train" else f"_{command}") + ".gin") for command in imported.bindings}
    for path in paths.values():
        if path.exists() and not overwrite:
            raise UserError(path, expected="no such file yet", found="one", cure="add --overwrite, or name another --output")
    width = max(len(f"{row.key} = {row.value}") for row in imported.rows)
    for row in imported.rows:
        print(printable(f"{row.key + ' = ' + row.value:<{min(width, 50)}}  {row.became}"))
    for command, path in paths.items():
        comment = f"For flexseg {command}, from {Path(config).name} of the reference system by flexseg import_config."
        replace_file(path, gin_text(imported.bindings[command], comment=comment).encode())
    print("\nwritten:", ", ".join(map(str, paths.values())))
    print("\nnext:")
    source = _common_folder([imported.images[split] for split in ("train", "valid", "test") if split in imported.images])
    name = prefix.name
    files = {command: [f"--gin_file={path}"] for command, path in paths.items()}
    print(" ", shlex.join(["flexseg", "build", f"--name={name}", f"--source={source}", "--data_dir=data", *files.get("build", [])]))
    print(" ", shlex.join(["flexseg", "train", *files["train"], f"--dataset={name}", "--data_dir=data", f"--workdir=runs/{name}"]))
    print(" ", shlex.join(["flexseg", "evaluate", f"--workdir=runs/{name}", "--split=test"]))
    images = imported.images.get("infer", "IMAGES")
    print(" ", shlex.join(["flexseg", "predict", f"--workdir=runs/{name}", f"--images={images}", "--output=masks"]))
    return [str(path) for path in paths.values()]


FLAGS = flags_of(run)


def _common_folder(folders: list[str]) -> str:
    """`./dataset/TNBC` of ./dataset/TNBC/train/images/ and ./dataset/TNBC/valid/images/; SOURCE if they have no common folder."""
    found = {str(Path(folder).parent.parent) for folder in folders}
    return found.pop() if len(found) == 1 else "SOURCE"


def main(args: Sequence[str]) -> int:
    """The command."""
    from flexseg.errors import UserError

    if len(args) != 1:
        found = "none" if not args else " ".join(args)
        raise UserError("FILE.config", expected="one configuration", found=found, cure="flexseg import_config train_eval_infer.config")
    run(args[0], **values(FLAGS))
    return 0
