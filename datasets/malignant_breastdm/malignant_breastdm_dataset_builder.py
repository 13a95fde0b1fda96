"""malignant_breastdm: slices of breast DCE-MRI of patients with malignant tumours, two classes.

    flexseg build --dataset=malignant_breastdm --source=BreaDM --data_dir=data --gin_param="split.resplit=True"

The reference system's published set has `malignant_breastdm.source_splits = ('train',)` and `malignant_breastdm.most_cases = 7000`. Its split by
slices is not reproduced, because it leaks. The release has patients in several of its splits, hence split.resplit. See README.md for source and
licence.
"""

import dataclasses

import gin
from etils import epath

from flexseg.datasets.breastdm.breadm import Slices, binary_map, open_slices
from flexseg.datasets.contents import Contents, SourceOptions
from flexseg.datasets.segmentation_builder import SegmentationBuilder


class Builder(SegmentationBuilder):
    """BreaDM, malignant tumours."""

    pkg_dir_path = epath.Path(__file__).parent


@gin.configurable("malignant_breastdm")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MalignantBreastDM(Slices):
    """The slices of the release that are used: the bindings `malignant_breastdm.*`; see Slices."""


def open_source(options: SourceOptions) -> Contents:
    """The slices of the patients with malignant tumours.

    Raises:
      UserError: see open_slices.
    """
    label_map = binary_map(("background", "malignant"))
    return open_slices(options, MalignantBreastDM(), dataset="malignant_breastdm", kinds=("Ma",), label_map=label_map, tumour={"Ma": 1})
