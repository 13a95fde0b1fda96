"""image_mask_folder: the user's folder of images and masks.

    flexseg build --dataset=image_mask_folder --name=my_set --source=my_folder --data_dir=data

The folder has `images/` and `masks/`, or these two in each of `train/`, `valid/`, `test/`; a mask has the stem of its image. Volumes (NIfTI,
MetaImage, NumPy, HDF5) become slices, see `flexseg/files/volumes.py`.
"""

from etils import epath

from flexseg.datasets.contents import Contents, FileContents, SourceOptions
from flexseg.datasets.segmentation_builder import SegmentationBuilder
from flexseg.files.cases import discover, named
from flexseg.files.inventory import take_inventory
from flexseg.files.split import Split
from flexseg.files.volumes import pictures_of


class Builder(SegmentationBuilder):
    """A folder of images and masks."""

    pkg_dir_path = epath.Path(__file__).parent


def open_source(options: SourceOptions) -> Contents:
    """Finds, splits and checks the files of the folder.

    Raises:
      UserError: the folder cannot be built; nothing was written.
    """
    source = options.require_source("image_mask_folder", "images/ and masks/, or train/, valid/, test/ with these")
    given = named(**{name: getattr(options, name) for name in ("image_pattern", "mask_pattern", "group_pattern", "group_column")})
    source, given = pictures_of(source, given, keep=options.kept, warn=options.warn, progress=options.progress, max_pixels=options.max_image_pixels)
    found = discover(source, **given)
    split = options.split or Split()
    inventory = take_inventory(split.assign(found.cases), label_map=options.label_map, max_pixels=options.max_image_pixels, progress=options.progress)
    for sentence in [*found.warnings, *inventory.warnings]:
        options.warn(sentence)
    return FileContents(inventory, split=split, max_pixels=options.max_image_pixels)
