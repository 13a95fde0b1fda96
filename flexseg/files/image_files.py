"""Lists the image files of a command's arguments, which are files and folders.

Usage:
    image_files(["new_images", "one_more.tif"])      # [Path, ...], by folder and name
"""

from collections.abc import Sequence
from pathlib import Path

from flexseg.console import say
from flexseg.errors import UserError
from flexseg.files.cases import discover_pairs


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """The image files in `paths`; a folder gives its images in the order of their stems. Stems are unique, because results are named after them.

    Raises:
      UserError: a path does not exist, a folder has no images, or two images have one stem.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"--images={path}", expected="a folder of images or an image", found="nothing there")
        if path.is_dir():
            inside = discover_pairs(path)
            found += [case.image for case in inside.cases]
            for warning in inside.warnings:
                say("warning: %s", warning)
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"--images={path}", expected="a folder of images or an image", found="a pipe or a device")
    first: dict[str, Path] = {}
    for path in found:
        if first.setdefault(path.stem, path) != path:
            raise UserError(
                path,
                expected="one image of each stem, since masks are named after it",
                found=f"{first[path.stem]} too",
                cure="predict them separately",
            )
    return list(dict.fromkeys(found))
