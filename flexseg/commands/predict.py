"""Predict the masks of images, in the colours of the label map, at the size of each image.

    flexseg predict --workdir=runs/my_run --images=new_images --output=masks

--images is a folder or a file, repeatable. A mask is named after its image: new_images/a.jpg becomes masks/a.png.
"""

from collections.abc import Sequence
from typing import Literal

from flexseg.commands.config_flags import Natural, Positive, flags_of, values


def run(
    *,
    workdir: str,
    images: Sequence[str],
    output: str | None = None,
    checkpoint: Literal["best", "last"] = "best",
    overwrite: bool = False,
    max_image_pixels: Positive = 150_000_000,
    replicas: Positive = 1,
    logical_cpus: Natural = 0,
    gin_param: Sequence[str] = (),
    user_module: Sequence[str] = (),
) -> list[str]:
    """Writes masks and returns their paths.

    Args:
      images: A folder of images or an image. Repeatable.
      output: Folder for the masks; default predictions/ in the run directory.
      overwrite: Replace existing masks.
      gin_param: A binding that overrides those of the run, e.g. input.eval_fit='resize'. Repeatable.
    """
    from pathlib import Path

    from flexseg.commands.quiet import load_tensorflow
    from flexseg.errors import UserError
    from flexseg.files.image_files import image_files
    from flexseg.runs.directory import recorded_onednn

    if not workdir or not images:
        raise UserError(
            "--workdir, --images", expected="both", found="not both", cure="flexseg predict --workdir=RUN --images=FOLDER --output=FOLDER"
        )
    paths = image_files([images] if isinstance(images, str) else images)
    load_tensorflow(onednn=recorded_onednn(workdir))
    from flexseg.training.opened_run import open_run

    with open_run(
        workdir, gin_param=gin_param, checkpoint=checkpoint, replicas=replicas, logical_cpus=logical_cpus, user_module=user_module
    ) as opened:
        from flexseg.inference.predict_files import predict_files

        folder = Path(output) if output else opened.run.predictions
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--output={folder}", expected="a folder", found="a file")
        inputs = {path.resolve() for path in paths}
        for path in paths:
            if (folder / f"{path.stem}.png").resolve() in inputs:
                raise UserError(f"--output={folder}", expected="another folder than the images'", found=f"{path} would be replaced by its mask")
        if not overwrite:
            existing = [path.stem for path in paths if (folder / f"{path.stem}.png").exists()]
            if existing:
                raise UserError(
                    folder / f"{existing[0]}.png",
                    expected="no such file yet",
                    found=f"{len(existing)} masks",
                    cure="add --overwrite, or name another --output",
                )
        written = predict_files(
            opened.assembly.predictor, paths, folder, manifest=opened.facts.manifest, label_map=opened.facts.label_map, max_pixels=max_image_pixels
        )
        names = [str(path) if output else opened.run.name_of(path) for path in written]
        print(f"{len(written)} {'mask' if len(written) == 1 else 'masks'} written: {folder if output else opened.run.name_of(folder)}")
    return names


FLAGS = flags_of(run)


def main(args: Sequence[str]) -> int:
    """The command."""
    run(**values(FLAGS))
    return 0
