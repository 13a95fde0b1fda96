"""SegmentationBuilder: the TFDS builder of segmentation datasets, base class of the `Builder` in each dataset's folder.

    builder = tnbc_dataset_builder.Builder(contents=contents, name="tnbc", data_dir=DIR, watch=lambda split, example: None)
    builder.download_and_prepare()

Examples are written in the order of `contents`, not shuffled; training shuffles them.
"""

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from flexseg.datasets.contents import Contents, Example
from flexseg.files.images import Storage, encoded_as


class SegmentationBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # TFDS, without types, takes it
    """Writes `Contents` as TFRecords with the features image, mask, case_id, group_id and, if present, instances.

    Args:
      contents: the examples.
      name: name of the TFDS config: the user's name of the dataset.
      data_dir: the TFDS data directory.
      watch: called with (split, example) for every example that is written; not called with Beam, whose workers are other processes.
      beam: generate examples in an Apache Beam pipeline.
      storage: encoding of the images, see `images.encoded_as`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}

    def __init__(
        self,
        *,
        contents: Contents,
        name: str,
        data_dir: str,
        watch: Callable[[str, Example], None],
        beam: bool = False,
        storage: Storage = "as_is",
    ):
        self._contents, self._watch, self._beam, self._storage = contents, watch, beam, storage
        super().__init__(config=tfds.core.BuilderConfig(name=name, description=f"Built as {name!r} by flexseg."), data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, self._contents.channels), doc="8-bit PNG or JPEG"),
            "mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png", doc="class ids, 255 = ignore"),
            "case_id": tfds.features.Text(doc="name of the case, unique in the dataset"),
            "group_id": tfds.features.Text(doc="what must never straddle two splits: patient, slide, tile"),
        }
        if self._contents.has_instances:
            features["instances"] = tfds.features.Image(shape=(None, None, 1), dtype=np.uint16, encoding_format="png", doc="0 = none")
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), supervised_keys=("image", "mask"), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {name: self._generate_examples(name) for name in self._contents.sizes()}

    def _generate_examples(self, split: str) -> Any:  # an iterator or a Beam PCollection
        if self._beam:
            import apache_beam as beam  # the extra [beam]

            numbers = beam.Create(range(self._contents.sizes()[split]), reshuffle=True)
            return numbers | beam.Map(_numbered, contents=self._contents, split=split, storage=self._storage)
        return self._watched(split)

    def _watched(self, split: str) -> Iterator[tuple[int, dict]]:
        # TFDS sorts by 128-bit key: it distributes the key range over a thousand temporary files and sorts each in memory. Keys 0, 1, 2, … would
        # all be in the first file (tensorflow/datasets#3491).
        gap = 2**128 // self._contents.sizes()[split]
        for number, example in enumerate(self._contents.examples(split)):
            self._watch(split, example)
            yield number * gap, _record(self._contents, example, storage=self._storage)


def _numbered(number: int, *, contents: Contents, split: str, storage: Storage) -> tuple[int, dict]:
    return number, _record(contents, contents.example(split, number), storage=storage)


def _record(contents: Contents, example: Example, *, storage: Storage) -> dict:
    """The features of an example."""
    image = encoded_as(example.image, storage, channels=contents.channels)
    record = {"image": image, "mask": _png(example.mask), "case_id": example.case_id, "group_id": example.group_id}
    return record if example.instances is None else record | {"instances": _png(example.instances)}


def _png(pixels: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", pixels)
    if not done:
        raise ValueError(f"OpenCV could not encode an array of {pixels.shape} {pixels.dtype}")
    return data.tobytes()
