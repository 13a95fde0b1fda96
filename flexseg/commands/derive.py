"""Derive augmented copies of the training cases of a folder as files (offline augmentation), to be built afterwards.

    flexseg derive --source=my_folder --output=my_folder_derived

Training augments on the fly (augment.*) in every epoch; files serve to inspect or keep the augmented images. The folder is split first, and only
training cases get copies. groups.csv in the output gives every copy the group of its source. Select the variants with --gin_param="derive.…".
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from flexseg.commands.config_flags import Positive, flags_of, values


def run(
    *,
    source: str,
    output: str,
    overwrite: bool = False,
    image_pattern: str | None = None,
    mask_pattern: str | None = None,
    group_pattern: str | None = None,
    group_column: str | None = None,
    max_image_pixels: Positive = 150_000_000,
    gin_file: Sequence[str] = (),
    gin_param: Sequence[str] = (),
    user_module: Sequence[str] = (),
) -> str:
    """Writes the folder and returns its path.

    Args:
      source: The folder of images and masks.
      output: Folder to write.
      overwrite: Replace a folder that this command wrote.
    """
    from flexseg.config.configure import configure
    from flexseg.config.effects import idle_bindings
    from flexseg.console import progress
    from flexseg.derivation.derive import derive_folder
    from flexseg.derivation.variants import Derive
    from flexseg.errors import UserError, printable
    from flexseg.files.cases import discover, named
    from flexseg.files.split import Split
    from flexseg.files.volumes import pictures_of
    from flexseg.user_modules import typed

    if not source or not output:
        raise UserError("--source, --output", expected="both", found="not both", cure="flexseg derive --source=FOLDER --output=FOLDER")
    modules = ("flexseg.derivation.variants", "flexseg.files.split", "flexseg.files.volumes")
    configuration = configure(gin_file, gin_param, modules=modules, user_modules=typed(user_module))
    print("".join(f"{note}\n" for note in idle_bindings(configuration)), end="")
    given = named(image_pattern=image_pattern, mask_pattern=mask_pattern, group_pattern=group_pattern, group_column=group_column)
    kept: list[object] = []
    with progress("slicing", unit="volume") as bar:
        pictures, given = pictures_of(
            Path(source), given, keep=kept, warn=lambda sentence: print(printable(sentence)), progress=bar.at, max_pixels=max_image_pixels
        )
    found = discover(pictures, **given)
    for sentence in found.warnings:
        print(printable(f"warning: {sentence}"), flush=True)
    assigned = Split().assign(found.cases)
    with progress("deriving", unit="case") as bar:
        written = derive_folder(assigned, output, Derive(), source=source, overwrite=overwrite, max_pixels=max_image_pixels, progress=bar.at)
    print(f"written: {output}: " + ", ".join(f"{split} {pairs} of {len(assigned[split])} cases" for split, pairs in written.items()))
    print("\nnext:", shlex.join(["flexseg", "build", "--name=NAME", f"--source={output}"]))
    return output


FLAGS = flags_of(run)


def main(args: Sequence[str]) -> int:
    """The command."""
    run(**values(FLAGS))
    return 0
