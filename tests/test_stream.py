"""Global batch k depends on the seed and k alone: not on replicas, workers, restarts; and evaluation sees every record once."""

import itertools
import time

import numpy as np
import pytest
import tensorflow as tf

from flexseg.data.augmentation import Augment
from flexseg.data.evaluation_batches import evaluation_batches
from flexseg.data.preprocessing import Preprocessing
from flexseg.data.settings import InputSettings
from flexseg.data.stream import Stream, order
from flexseg.distribution.strategies import open_replicas
from flexseg.inference.whole_case import Pad

CROPS = InputSettings(image_size=(24, 24), fit="random_crop", foreground_crop_probability=0.5)
BATCH = 8


def stream(toy, *, split="train", batch=BATCH, seed=7, inputs=CROPS, augment=None):
    return Stream(toy.records(split), inputs=inputs, augment=augment or Augment(), background=0, seed=seed, global_batch_size=batch)


def plain_stream(toy, **options):
    """Without augmentation, which takes a second to trace."""
    return stream(toy, augment=Augment(enabled=False), **options)


def global_batches(of: Stream, first: int, last: int, *, replicas: int = 1, workers: int = 1) -> list[dict[str, np.ndarray]]:
    """The batches of steps first..last, put together from the per-replica batches of every worker."""
    shares = []
    for worker in range(workers):
        dataset = of.batches(first, replicas=replicas, workers=workers, worker=worker)
        shares.append(list(dataset.take((last - first + 1) * replicas).as_numpy_iterator()))
        assert {len(share["index"]) for share in shares[-1]} == {of.global_batch_size // workers // replicas}
    steps = ([part for share in shares for part in share[step * replicas : (step + 1) * replicas]] for step in range(last - first + 1))
    return [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]} for parts in steps]


def assert_same(one: list[dict], other: list[dict]) -> None:
    assert len(one) == len(other)
    for step, (a, b) in enumerate(zip(one, other, strict=True)):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name], err_msg=f"{name} of batch {step}")


@pytest.fixture(scope="module")
def thirty_steps(toy):
    """Steps 0 to 30 of one replica: 248 places, 13 passes over 19 records."""
    return global_batches(stream(toy), 0, 30)


# The order


@pytest.mark.parametrize("count", [1, 2, 19, 1000])
def test_every_pass_is_a_permutation(count):
    for seed, number in itertools.product((0, 7, 2**31 + 5), (0, 1, 10**12)):
        np.testing.assert_array_equal(np.sort(order(seed, tf.constant(number, tf.int64), count)), np.arange(count))


def test_a_thousand_passes_over_19_records_are_a_thousand_orders():
    one_pass = tf.function(lambda number: order(7, number, 19))
    assert len({one_pass(tf.constant(number, tf.int64)).numpy().tobytes() for number in range(1000)}) == 1000


# 7 and 263 are equal to a shuffler that keeps 8 bits of its key, (8, 0) and (7, 1) to one that adds seed and pass.
ALIKE = [((7, 0), (263, 0)), ((8, 0), (7, 1)), ((7, 0), (7, 256)), ((0, 7), (7, 0)), ((7, 3), (7, 3 + 2**32)), ((1, 0), (-1, 0))]


@pytest.mark.parametrize("one, other", ALIKE)
def test_seeds_and_passes_that_look_alike_give_other_orders(one, other):
    first, second = (order(seed, tf.constant(number, tf.int64), 19).numpy() for seed, number in (one, other))
    assert (first != second).any()


def test_records_stand_everywhere_equally_often():
    one_pass = tf.function(lambda number: order(0, number, 5))
    places = np.stack([one_pass(tf.constant(number, tf.int64)).numpy() for number in range(1000)])
    counts = np.stack([np.bincount(column, minlength=5) for column in places.T])
    assert abs(counts - 200).max() < 60  # 200 expected, standard deviation 12.6


# The batches


def test_a_batch_keeps_the_contract(toy, thirty_steps):
    for step, batch in enumerate(thirty_steps):
        assert batch["image"].shape == (BATCH, 24, 24, 3) and batch["image"].dtype == np.uint8
        assert batch["mask"].shape == (BATCH, 24, 24, 1) and batch["mask"].dtype == np.uint8
        assert set(np.unique(batch["mask"])) <= {0, 1, 255}
        assert batch["weight"].dtype == np.float32 and (batch["weight"] == 1).all()
        assert batch["index"].dtype == np.int64
        assert batch["position"].dtype == np.int64 and batch["position"].tolist() == list(range(step * BATCH, (step + 1) * BATCH))


def test_batches_cross_from_one_pass_to_the_next_and_every_pass_is_whole(thirty_steps):
    index = np.concatenate([batch["index"] for batch in thirty_steps])
    passes = [index[start : start + 19] for start in range(0, len(index) - 18, 19)]
    assert len(passes) == 13
    for number, records in enumerate(passes):
        np.testing.assert_array_equal(records, order(7, tf.constant(number, tf.int64), 19))
    assert set(thirty_steps[2]["index"][:3]) == set(passes[0][16:]) and set(thirty_steps[2]["index"][3:]) == set(passes[1][:5])


@pytest.mark.parametrize("replicas, workers, first", [(2, 1, 0), (4, 1, 0), (1, 2, 0), (2, 2, 10), (1, 1, 10)])
def test_the_global_batches_are_the_same_on_any_machine_and_after_any_restart(toy, thirty_steps, replicas, workers, first):
    assert_same(global_batches(stream(toy), first, 30, replicas=replicas, workers=workers), thirty_steps[first:])


@pytest.mark.slow
def test_two_hundred_global_batches_are_the_same_on_1_2_and_4_replicas_and_from_step_100_on(toy):
    whole = global_batches(stream(toy), 0, 200)
    for replicas, first in ((2, 0), (4, 0), (1, 100), (2, 100), (4, 100)):
        assert_same(global_batches(stream(toy), first, 200, replicas=replicas), whole[first:])


def test_the_host_knows_the_records_of_any_step_without_reading_them(toy, thirty_steps):
    of = plain_stream(toy)
    for step in (0, 2, 30):
        assert of.indices(step) == thirty_steps[step]["index"].tolist()


def test_fewer_records_than_a_batch_holds_come_again_in_it(toy):
    batches = global_batches(plain_stream(toy, split="valid"), 0, 4)
    index = np.concatenate([batch["index"] for batch in batches])
    for start in range(0, 40, 5):
        assert sorted(index[start : start + 5]) == [0, 1, 2, 3, 4]
    assert_same(global_batches(plain_stream(toy, split="valid"), 3, 4, replicas=4), batches[3:])


def test_one_record_fills_any_batch_with_different_crops(toy):
    batch = global_batches(plain_stream(toy, split="test"), 0, 0)[0]
    assert (batch["index"] == 0).all() and len({image.tobytes() for image in batch["image"]}) > 1


def test_another_seed_gives_other_records_crops_and_augmentations(toy, thirty_steps):
    other = global_batches(stream(toy, seed=8), 0, 2)
    mine = {(i, p): x.tobytes() for b in thirty_steps[:3] for i, p, x in zip(b["index"], b["position"], b["image"], strict=True)}
    its = {(i, p): x.tobytes() for b in other for i, p, x in zip(b["index"], b["position"], b["image"], strict=True)}
    assert mine.keys() != its.keys()
    assert all(mine[key] != its[key] for key in mine.keys() & its.keys())


def test_an_example_is_a_function_of_record_and_place(toy, thirty_steps):
    example = tf.function(stream(toy).example)
    for step, place in ((30, 7), (0, 0), (11, 3)):  # out of order: nothing is left over from one call to the next
        batch = thirty_steps[step]
        alone = example(tf.constant(batch["index"][place]), tf.constant(batch["position"][place]))
        for name in batch:
            np.testing.assert_array_equal(alone[name], batch[name][place], err_msg=name)


def test_a_record_drawn_again_is_cropped_and_augmented_anew(thirty_steps):
    seen = {}
    for batch in thirty_steps:
        for index, image in zip(batch["index"], batch["image"], strict=True):
            seen.setdefault(index, []).append(image.tobytes())
    assert set(map(len, seen.values())) == {13, 14}
    assert all(len(set(images)) == len(images) for images in seen.values())


def test_a_far_step_is_reached_without_what_stands_before_it(toy):
    began = time.monotonic()
    global_batches(plain_stream(toy), 0, 0)
    near = time.monotonic() - began
    for far in (10**6, 10**13):
        began = time.monotonic()
        batch = global_batches(plain_stream(toy), far, far)[0]
        assert time.monotonic() - began < 3 * near + 1  # minutes, if the 421,052 passes before step 10**6 were drawn
        assert batch["position"][0] == far * BATCH
        pass_number, place = divmod(far * BATCH, 19)
        assert batch["index"][0] == order(7, tf.constant(pass_number, tf.int64), 19)[place]


class Noting(Stream):
    """Reads nothing and notes what it would have read."""

    def __init__(self, records, **settings):
        super().__init__(records, **settings)
        self.places = []

    def example(self, index, position):
        return {"index": index, "position": tf.ensure_shape(tf.numpy_function(lambda p: self.places.append(int(p)) or p, [position], tf.int64), [])}


@pytest.mark.parametrize("worker", [0, 1])
def test_a_worker_reads_nothing_but_its_slice(toy, worker):
    noting = Noting(toy.records("train"), inputs=CROPS, augment=Augment(), background=0, seed=7, global_batch_size=8)
    list(noting.batches(5, replicas=2, workers=2, worker=worker).take(4))
    assert len(noting.places) >= 8 and min(noting.places) == 40 + 4 * worker
    assert {place % 8 // 4 for place in noting.places} == {worker}


def test_padding_and_resizing_streams_keep_the_whole_picture(toy):
    for inputs in (InputSettings(image_size=(40, 64), fit="pad"), InputSettings(image_size=(16, 24), fit="resize")):
        batch = global_batches(plain_stream(toy, inputs=inputs), 0, 0)[0]
        for index, image, mask in zip(batch["index"], batch["image"], batch["mask"], strict=True):
            own_image, own_mask = toy.records("train").example(int(index))
            height, width = own_mask.shape
            if inputs.fit == "pad":
                np.testing.assert_array_equal(image[:height, :width], own_image)
                np.testing.assert_array_equal(mask[:height, :width, 0], own_mask)
            assert image.shape[:2] == mask.shape[:2] == inputs.image_size


def test_bgr_swaps_the_channels_after_everything_else(toy):
    settings = (InputSettings(image_size=(16, 16), color_order=name) for name in ("RGB", "BGR"))
    streams = [plain_stream(toy, inputs=inputs) for inputs in settings]
    batches = [global_batches(stream, 0, 0)[0] for stream in streams]
    np.testing.assert_array_equal(batches[0]["image"], batches[1]["image"])  # augmentation gets RGB
    rgb, bgr = (stream.preprocessing.on_device(batch, dtype="float32")["image"] for stream, batch in zip(streams, batches, strict=True))
    np.testing.assert_array_equal(rgb, batches[0]["image"].astype(np.float32))
    np.testing.assert_array_equal(bgr, rgb[..., ::-1])


def test_nothing_is_tuned_because_the_end_of_a_tuned_iterator_may_wait_for_a_minute(toy):
    training = plain_stream(toy).batches(0, replicas=1)
    options = {"sizes": toy.sizes("train"), "preprocessing": Preprocessing(CROPS), "splitter": Pad((40, 64))}
    evaluation = evaluation_batches(toy.records("train"), **options, batch_size=4, replicas=1)
    on_devices = open_replicas(global_batch_size=2, replicas=2, logical_cpus=2).distribute(training)._iterators[0]._iterator._device_iterators
    assert len(on_devices) == 2
    assert {dataset.options().autotune.enabled for dataset in (training, evaluation, *(one._dataset for one in on_devices))} == {False}


# Evaluation


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("split, count", [("valid", 5), ("train", 19)])
def test_every_record_is_evaluated_exactly_once_and_padding_weighs_nothing(toy, split, count, replicas):
    records = toy.records(split)
    options = {"sizes": toy.sizes(split), "preprocessing": Preprocessing(InputSettings()), "splitter": Pad((40, 64))}
    parts = list(evaluation_batches(records, **options, batch_size=4, replicas=replicas).as_numpy_iterator())
    steps = -(-count // 4)
    assert len(parts) == steps * replicas  # every replica has a batch in every step
    assert {part["image"].shape for part in parts} == {(-(-4 // replicas), 40, 64, 3)}
    weight, index = (np.concatenate([part[name] for part in parts]) for name in ("weight", "index"))
    assert set(weight) <= {0.0, 1.0} and weight.dtype == np.float32
    assert index[weight == 1].tolist() == list(range(count))
    for step in range(steps):
        mine = parts[step * replicas : (step + 1) * replicas]
        assert sum(part["weight"].sum() for part in mine) == min(4, count - 4 * step)
    for part in parts:
        for number, (image, mask) in enumerate(zip(part["image"], part["mask"], strict=True)):
            own_image, own_mask = records.example(int(part["index"][number]))
            np.testing.assert_array_equal(image[: own_mask.shape[0], : own_mask.shape[1]], own_image)
            np.testing.assert_array_equal(mask[: own_mask.shape[0], : own_mask.shape[1], 0], own_mask)
