"""A case may give several inputs: who gets which, and that evaluation and prediction put them together again."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf
import toys

from flexseg.data import evaluation_batches as module
from flexseg.data.evaluation_batches import deal, evaluation_batches
from flexseg.data.preprocessing import Preprocessing
from flexseg.data.settings import InputSettings
from flexseg.distribution.strategies import open_replicas
from flexseg.evaluation.evaluate import EvaluationSettings, evaluate_split
from flexseg.inference.predictor import Predictor
from flexseg.inference.splitter import Merger, Splitter
from flexseg.inference.whole_case import Pad
from flexseg.objectives.objective import Objective
from flexseg.objectives.step_metrics import StepMetrics

WHOLE, STRIP = (40, 64), (8, 64)


class Strips(Splitter):
    """Strips of eight rows, each padded to the width of the input."""

    def count(self, own_size):
        return -(-own_size[0] // STRIP[0])

    def split(self, image, mask, part):
        first = tf.cast(part, tf.int32) * STRIP[0]
        return Pad(STRIP).split(image[first : first + STRIP[0]], mask[first : first + STRIP[0]], part)

    def merger(self, own_size):
        return Stack(own_size)


class Stack(Merger):
    """Puts strips below one another."""

    def __init__(self, own_size):
        self.strips, self.own_size = [], own_size

    def aggregate(self, probabilities):
        self.strips.append(probabilities)

    def finalize(self):
        return tf.concat(self.strips, axis=0)[: self.own_size[0], : self.own_size[1]]


def predictor(splitter, *, replicas):
    """A network that sees one pixel at a time, so that it does not matter how a case is cut."""
    devices = open_replicas(global_batch_size=12, replicas=1, logical_cpus=replicas if replicas > 1 else 0)
    keras.utils.set_random_seed(3)
    with devices.scope():
        inputs = keras.Input((*splitter.size, 3))
        model = keras.Model(inputs, keras.layers.Conv2D(2, 1)(keras.layers.Rescaling(1 / 255, offset=-0.5)(inputs)))
    step_metrics = StepMetrics(loss=Objective().bind(num_classes=2, background=0, outputs=1), reduction="example", metrics=[])
    return Predictor(devices, model, model, preprocessing=Preprocessing(InputSettings()), splitter=splitter, xla=False, step_metrics=step_metrics)


@pytest.mark.parametrize("lanes", [1, 2, 3, 8])
@pytest.mark.parametrize("counts", [[1] * 7, [3, 1, 1, 5, 2], [4], []])
def test_every_case_is_dealt_once_and_lanes_differ_by_no_more_than_a_case(counts, lanes):
    dealt = deal(counts, lanes=lanes)
    assert len(dealt) == lanes and sorted(case for cases in dealt for case in cases) == list(range(len(counts)))
    assert all(cases == sorted(cases) for cases in dealt)
    loads = [sum(counts[case] for case in cases) for cases in dealt]
    assert max(loads) - min(loads) <= max(counts, default=0)


def test_cases_of_one_input_are_dealt_in_turn():
    assert deal([1] * 7, lanes=3) == [[0, 3, 6], [1, 4], [2, 5]]


@pytest.mark.parametrize("replicas, workers", [(2, 1), (3, 1), (2, 2)])
def test_a_step_has_the_same_inputs_on_any_number_of_devices(toy, replicas, workers):
    options = {"sizes": toy.sizes("valid"), "preprocessing": Preprocessing(InputSettings()), "splitter": Strips(STRIP), "batch_size": 5}

    def steps(replicas, workers):
        """(index, pixels) of every input that is not padding, by step."""
        found = collections.defaultdict(list)
        for worker in range(workers):
            batches = evaluation_batches(toy.records("valid"), **options, replicas=replicas, workers=workers, worker=worker)
            for number, batch in enumerate(batches.as_numpy_iterator()):
                for weight, index, image in zip(batch["weight"], batch["index"], batch["image"], strict=True):
                    found[number // replicas] += [(int(index), image.tobytes())] if weight else []
        return found

    assert steps(replicas, workers) == steps(1, 1)


def test_a_case_is_decoded_once_and_the_weights_of_its_inputs_add_up_to_one(toy, monkeypatch):
    records, splitter = toy.records("valid"), Strips(STRIP)
    decoded, decode = [], records.decode

    def counting(serialized):
        image, mask = decode(serialized)
        tf.py_function(lambda height: decoded.append(int(height)), [tf.shape(image)[0]], [])
        return image, mask

    monkeypatch.setattr(records, "decode", counting)
    options = {"sizes": toy.sizes("valid"), "preprocessing": Preprocessing(InputSettings()), "splitter": splitter, "batch_size": 2}
    batches = list(evaluation_batches(records, **options, replicas=1).as_numpy_iterator())
    weights = collections.defaultdict(float)
    for index, weight in ((int(i), w) for batch in batches for i, w in zip(batch["index"], batch["weight"], strict=True)):
        weights[index] += weight
    assert weights == pytest.approx(dict.fromkeys(range(5), 1.0))
    padded = sum(float(weight) == 0 for batch in batches for weight in batch["weight"]) > 0
    assert len(decoded) == 5 + padded


@pytest.mark.parametrize("replicas", [1, 3])
def test_cases_in_several_inputs_are_scored_and_predicted_as_whole_ones(toy, replicas):
    whole, strips = predictor(Pad(WHOLE), replicas=1), predictor(Strips(STRIP), replicas=replicas)
    settings = EvaluationSettings(batch_size=3)
    one, other = (
        evaluate_split(one, toy, "valid", settings=settings, step_metrics=one._step_metrics).result() | {"loss": None} for one in (whole, strips)
    )
    assert one == other and 0 < one["mean_foreground_dice"] < 1
    images = [toys.picture(f"p{height}", (height, width)) for height, width in ((40, 64), (9, 20), (8, 64), (17, 33))]
    for image, a, b in zip(images, whole.predict(images), strips.predict(images), strict=True):
        assert a.shape == image.shape[:2] and 0 < a.mean() < 1
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("replicas", [1, 3])
def test_both_ways_to_read_give_the_same_batches_where_a_case_gives_one_input(toy, monkeypatch, replicas):
    options = {"sizes": toy.sizes("valid"), "preprocessing": Preprocessing(InputSettings()), "splitter": Pad(WHOLE), "batch_size": 3}

    def batches():
        return list(evaluation_batches(toy.records("valid"), **options, replicas=replicas).as_numpy_iterator())

    whole = batches()
    monkeypatch.setattr(module, "_of_whole_cases", lambda rows, steps, *functions: module._of_lanes(rows, *functions))
    for one, other in zip(whole, batches(), strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
