"""`input.cache = "ram"` changes where pixels come from, and nothing else."""

import os
import types

import numpy as np
import psutil
import pytest
import tensorflow as tf

from flexseg.data import ram_cache
from flexseg.data.augmentation import Augment
from flexseg.data.evaluation_batches import evaluation_batches
from flexseg.data.preprocessing import Preprocessing
from flexseg.data.ram_cache import RamCache
from flexseg.data.records import Records
from flexseg.data.settings import InputSettings
from flexseg.data.stream import Stream
from flexseg.distribution.strategies import open_replicas
from flexseg.errors import UserError
from flexseg.inference.whole_case import Pad


@pytest.fixture(scope="module")
def cache(toy):
    return RamCache(toy.records("train"), sizes=toy.sizes("train"))


def pixels(dataset) -> list[dict[str, np.ndarray]]:
    return list(dataset.as_numpy_iterator())


def test_every_record_keeps_its_pixels_and_its_size(toy, cache):
    records = toy.records("train")
    assert (cache.count, cache.channels) == (records.count, records.channels)
    for index in range(records.count):
        image, mask = cache.decode(cache.read(tf.constant(index, tf.int64)))
        own_image, own_mask = records.example(index)
        np.testing.assert_array_equal(image, own_image)
        np.testing.assert_array_equal(mask[..., 0], own_mask)


@pytest.mark.parametrize("fit", ["random_crop", "resize", "pad"])
def test_the_stream_is_the_same_with_and_without_it(toy, cache, fit):
    inputs = InputSettings(image_size=(40, 64), fit=fit)
    settings = {"inputs": inputs, "augment": Augment(enabled=False), "background": 0, "seed": 3, "global_batch_size": 8}
    one, other = (pixels(Stream(records, **settings).batches(4, replicas=2).take(6)) for records in (toy.records("train"), cache))
    for a, b in zip(one, other, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_it_feeds_several_replicas(toy, cache):
    replicas = open_replicas(global_batch_size=4, logical_cpus=2)
    inputs = InputSettings(image_size=(16, 16))
    stream = Stream(cache, inputs=inputs, augment=Augment(enabled=False), background=0, seed=3, global_batch_size=4)
    batch = next(replicas.distribute(stream.batches(0, replicas=2)))
    alone = next(iter(stream.batches(0, replicas=1)))
    np.testing.assert_array_equal(np.concatenate(replicas.local(batch["image"])), alone["image"])


def test_it_serves_evaluation_too(toy, cache):
    options = {
        "sizes": toy.sizes("train"),
        "preprocessing": Preprocessing(InputSettings()),
        "splitter": Pad((40, 64)),
        "batch_size": 8,
        "replicas": 1,
    }
    for a, b in zip(pixels(evaluation_batches(toy.records("train"), **options)), pixels(evaluation_batches(cache, **options)), strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])


def test_pixels_that_would_not_fit_are_refused_before_any_is_decoded(toy, monkeypatch):
    need = int(toy.sizes("train").prod(axis=1).sum()) * 4

    def with_free(size):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=size))
        return RamCache(toy.records("train"), sizes=toy.sizes("train"))

    with_free(int(need / ram_cache._SHARE) + 2)
    monkeypatch.setattr(Records, "decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError) as caught:
        with_free(int(need / ram_cache._SHARE) - 2)
    assert caught.value.where == "input.cache" and "19 examples" in caught.value.found
    assert caught.value.cure == "--gin_param=\"input.cache='off'\""


class Large:
    """100 black images of 1 MiB each."""

    count, channels = 100, 3

    def read(self, index):
        return index

    def decode(self, index):
        return tf.zeros([512, 512, 3], tf.uint8), tf.cast(tf.fill([512, 512, 1], index), tf.uint8)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's account of memory")
def test_filling_it_takes_little_more_memory_than_its_pixels():
    # What is compared with the free memory is the pixels: copies on the way (three times as much, once) would let a run be killed.
    before = resident()
    reset_peak()
    cache = RamCache(Large(), sizes=np.full((100, 2), 512))
    assert cache.decode(cache.read(tf.constant(99, tf.int64)))[1].numpy().max() == 99
    assert resident("VmHWM:") - before < 200


def resident(name: str = "VmRSS:") -> float:
    """MiB of this process: now, or at most since `reset_peak` (Linux)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) / 1024


def reset_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
