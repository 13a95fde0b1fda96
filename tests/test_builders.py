"""Every dataset's builder under TFDS's own test of builders, with dummy data in the source's layout."""

import tempfile
from pathlib import Path

import gin
import tensorflow_datasets as tfds
import test_breastdm
import toys
from test_sources import write_slides

from flexseg.commands.build import DATASETS
from flexseg.config.configure import configure
from flexseg.datasets.breastdm import breastdm_dataset_builder
from flexseg.datasets.contents import SourceOptions
from flexseg.datasets.image_mask_folder import image_mask_folder_dataset_builder
from flexseg.datasets.malignant_breastdm import malignant_breastdm_dataset_builder
from flexseg.datasets.synthetic_nuclei import synthetic_nuclei_dataset_builder
from flexseg.datasets.tnbc import tnbc_dataset_builder
from flexseg.files.split import Split


class _BuilderTest(tfds.testing.DatasetBuilderTestCase):
    """What differs from a builder of TFDS's: it is given what to write, found and checked before."""

    MODULE, WRITE, BINDINGS = None, staticmethod(lambda folder: None), ()
    MOCK_OUT_FORBIDDEN_OS_FUNCTIONS = False  # sources are files of this machine
    SKIP_CHECKSUMS = True  # archives.fetch compares them, see test_archives.py
    EXAMPLE_DIR = tempfile.gettempdir()

    __test__ = False

    def __init_subclass__(cls):
        cls.__test__ = True

    @classmethod
    def setUpClass(cls):
        cls.DATASET_CLASS = cls.MODULE.Builder
        cls.place = tempfile.TemporaryDirectory()
        cls.source = cls.WRITE(Path(cls.place.name) / "source")
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        cls.place.cleanup()
        super().tearDownClass()

    def _make_builder(self, config=None):
        configure([], list(self.BINDINGS), modules=(self.MODULE.__name__, "flexseg.files.split"), user_modules=())
        options = SourceOptions(
            source=None if self.source is None else str(self.source),
            image_pattern=None, mask_pattern=None, group_pattern=None, group_column=None, label_map=None, max_image_pixels=10**6,
            bound=frozenset(binding.split(".")[0] for binding in self.BINDINGS), split=Split() if self.BINDINGS and self.source else None,
            warn=lambda sentence: None, progress=None, data_dir=Path(self.tmp_dir),
        )  # fmt: skip
        try:
            return self.MODULE.Builder(contents=self.MODULE.open_source(options), name="dummy", data_dir=self.tmp_dir, watch=lambda *_: None)
        finally:
            gin.clear_config()

    def test_what_tells_people_of_the_dataset_is_there(self):
        folder = Path(str(self.DATASET_CLASS.pkg_dir_path))
        assert len((folder / "README.md").read_text()) > 200 and "@" in (folder / "CITATIONS.bib").read_text()
        assert self.builder.get_metadata().tags and self.builder.info.description and self.builder.info.citation


class TestImageMaskFolder(_BuilderTest):
    MODULE, SPLITS = image_mask_folder_dataset_builder, {"train": 2, "valid": 1, "test": 1}
    WRITE = staticmethod(lambda folder: toys.write_folder(folder, toys.FOUR))


class TestTnbc(_BuilderTest):
    MODULE, SPLITS = tnbc_dataset_builder, {"train": 2, "valid": 2, "test": 1}
    WRITE = staticmethod(lambda folder: write_slides(folder, {"01": 2, "02": 1, "10": 2}))
    BINDINGS = ("split.train_groups=(1,)", "split.valid_groups=(10,)", "split.test_groups=(2,)")


class TestSyntheticNuclei(_BuilderTest):
    MODULE, SPLITS = synthetic_nuclei_dataset_builder, {"train": 4, "valid": 2, "test": 2}
    BINDINGS = ("synthetic_nuclei.slides=(2,1,1)", "synthetic_nuclei.images_per_slide=2", "synthetic_nuclei.image_size=(32,48)")


def write_patients(folder):
    for split, patient in (("train", "BreaDM-Ma-1"), ("train", "BreaDM-Be-2"), ("val", "BreaDM-Ma-3"), ("test", "BreaDM-Ma-4")):
        test_breastdm.write(folder, split, patient)
    return folder


class TestBreastDM(_BuilderTest):
    MODULE, SPLITS = breastdm_dataset_builder, {"train": 12, "valid": 6, "test": 6}
    WRITE = staticmethod(write_patients)


class TestMalignantBreastDM(_BuilderTest):
    MODULE, SPLITS = malignant_breastdm_dataset_builder, {"train": 6, "valid": 6, "test": 6}
    WRITE = staticmethod(write_patients)


def test_every_dataset_has_such_a_test():
    tested = {case.MODULE.Builder.pkg_dir_path.name for case in _BuilderTest.__subclasses__()}
    assert tested == set(DATASETS)
