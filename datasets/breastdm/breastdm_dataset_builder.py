"""breastdm: slices of breast DCE-MRI, three classes: background, benign and malignant tumour.

    flexseg build --dataset=breastdm --source=BreaDM --data_dir=data --gin_param="split.resplit=True"

The release has patients in several of its splits, hence split.resplit. See README.md for source and licence.
"""

import dataclasses

import gin
from etils import epath

from flexseg.datasets.breastdm.breadm import Slices, open_slices
from flexseg.datasets.contents import Contents, SourceOptions
from flexseg.datasets.segmentation_builder import SegmentationBuilder
from flexseg.files.label_map import LabelMap


class Builder(SegmentationBuilder):
    """BreaDM, three classes."""

    pkg_dir_path = epath.Path(__file__).parent


@gin.configurable("breastdm")
@dataclasses.dataclass(frozen=True, kw_only=True)
class BreastDM(Slices):
    """The slices of the release that are used: the bindings `breastdm.*`; see Slices."""


def open_source(options: SourceOptions) -> Contents:
    """The slices of all patients.

    Raises:
      UserError: see open_slices.
    """
    label_map = LabelMap(rgb_map={(0, 0, 0): 0, (0, 255, 0): 1, (255, 0, 0): 2}, class_names=("background", "benign", "malignant"), background=0)
    return open_slices(options, BreastDM(), dataset="breastdm", kinds=("Be", "Ma"), label_map=label_map, tumour={"Be": 1, "Ma": 2})
