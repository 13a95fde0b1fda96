"""synthetic_nuclei: the embedded dataset, generated when it is built.

    flexseg build --dataset=synthetic_nuclei --data_dir=data

Images of stained tissue with touching nuclei, exact masks and instances; slides are the groups.
"""

import dataclasses
import hashlib
import json

import cv2
import gin
from etils import epath

from flexseg.datasets.contents import Contents, Example, SourceOptions
from flexseg.datasets.segmentation_builder import SegmentationBuilder
from flexseg.datasets.synthetic_nuclei.nuclei import CLASS_NAMES, synthesize
from flexseg.errors import UserError
from flexseg.files.label_map import LabelMap
from flexseg.files.manifest import Manifest


class Builder(SegmentationBuilder):
    """Synthetic nuclei."""

    pkg_dir_path = epath.Path(__file__).parent


@gin.configurable("synthetic_nuclei")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticNuclei:
    """The settings of the generator: the bindings `synthetic_nuclei.*`.

    Attributes:
      image_size: (height, width) in pixels.
      slides: number of slides in train, valid and test; each slide has its own stain.
      images_per_slide: images per slide.
      seed: seed of all random numbers; the same seed gives the same pixels on every machine.
    """

    image_size: tuple[int, int] = (128, 128)
    slides: tuple[int, int, int] = (8, 2, 2)
    images_per_slide: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.slides) != 3 or min(self.slides) < 0 or self.slides[0] < 1 or self.images_per_slide < 1:
            raise UserError(
                "synthetic_nuclei", expected="slides = (train, valid, test) with at least one to train on, images_per_slide of at least 1",
                found=f"{self.slides}, {self.images_per_slide}",
            )  # fmt: skip


class SyntheticContents(Contents):
    """Generated examples.

    Args:
      settings: of the generator.
    """

    channels, has_instances = 3, True

    def __init__(self, settings: SyntheticNuclei):
        self._settings = settings
        self.split = dataclasses.asdict(settings)
        self.label_map = LabelMap(values={0: 0, 255: 1}, class_names=CLASS_NAMES, background=0)
        self.fingerprint = hashlib.sha256(json.dumps(dataclasses.asdict(settings)).encode()).hexdigest()

    def sizes(self) -> dict[str, int]:
        """{split: number of images}."""
        slides = zip(("train", "valid", "test"), self._settings.slides, strict=True)
        return {name: count * self._settings.images_per_slide for name, count in slides if count}

    def example(self, split: str, number: int) -> Example:
        """Generates an image; slides are numbered across the splits."""
        part = ("train", "valid", "test").index(split)
        slide, index = sum(self._settings.slides[:part]) + number // self._settings.images_per_slide, number % self._settings.images_per_slide
        sample = synthesize(seed=self._settings.seed, slide=slide, index=index, image_size=self._settings.image_size)
        done, data = cv2.imencode(".png", sample.image[..., ::-1])
        if not done:
            raise ValueError("OpenCV could not encode a PNG")
        return Example(
            case_id=f"slide_{slide:02d}_{index:03d}",
            group_id=f"slide_{slide:02d}",
            image=data.tobytes(),
            mask=sample.mask,
            instances=sample.instances,
        )

    def difference(self, built: Manifest) -> list[str]:
        """A sentence if the settings differ."""
        if built.fingerprint == self.fingerprint:
            return []
        return [f"other settings than {dataclasses.asdict(self._settings)}"]


def open_source(options: SourceOptions) -> Contents:
    """The examples of the bindings `synthetic_nuclei.*`.

    Raises:
      UserError: a flag does not apply to this dataset.
    """
    options.refuse("synthetic_nuclei", "source", "image_pattern", "mask_pattern", "group_pattern", "group_column", "label_map", "split")
    return SyntheticContents(SyntheticNuclei())
