"""Shared by all tests: four logical CPU devices, so that in-process tests may run on up to four replicas; gin's state put back;
a built dataset; buckets."""

import gc
import sys

import gin
import pytest

from flexseg.machine import choose_onednn

choose_onednn()  # before a test module imports TensorFlow; those that need none leave it out


def pytest_collection_finish():
    """Logical devices come before the first operation. Python's collector visits every object, and TensorFlow's and Keras's modules have millions:
    without them the tests take an eighth less."""
    if "tensorflow" in sys.modules:
        import tensorflow as tf

        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True)
def _fresh_gin():
    yield
    gin.clear_config()


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A built dataset of RGB images in four sizes: 19 train, 5 valid, 1 test; its folder is `toy.directory.parents[3] / "source"`."""
    import toys

    place = tmp_path_factory.mktemp("toy")
    sizes = ((24, 31), (40, 28), (32, 32), (17, 64))
    names = [f"{split}/{split}{number:02d}" for split, count in (("train", 19), ("valid", 5), ("test", 1)) for number in range(count)]
    source = toys.write_folder(place / "source", {name: sizes[number % 4] for number, name in enumerate(names)})
    return toys.build(place, source=source, name="toy")


@pytest.fixture(scope="session")
def stores():
    """{"s3": address of a bucket, "gs": …} on servers of this machine; for the whole session, because s3fs keeps its first connection."""
    from remote_stores import served  # a second of imports that most tests do without

    with served() as addresses:
        yield addresses


@pytest.fixture(params=["s3", "gs"])
def url(request, stores, tmp_path):
    """Where a run may lie in a bucket of each kind."""
    return f"{stores[request.param]}/{tmp_path.name}/run"


@pytest.fixture
def s3_url(stores, tmp_path):
    """Where a run may lie in a bucket of S3."""
    return f"{stores['s3']}/{tmp_path.name}/run"
