"""Augmentation gives the pixels that release 7ce7f2e computed; `write_golden` computes them."""

import functools
import inspect
from pathlib import Path

import gin
import numpy as np
import pytest
import tensorflow as tf
from toys import slow_unless

from flexseg.data import augmentation
from flexseg.data.augmentation import OPERATIONS, Augment
from flexseg.data.augmentations.colors import COLORS
from flexseg.data.augmentations.reorders import REORDERS
from flexseg.data.augmentations.warps import WARPS

GOLDEN = Path(__file__).parent / "data" / "augmentation_golden.npz"
RELEASED = (  # the operations of release 7ce7f2e; one that comes later takes no part in the golden pixels
    "horizontal_flip", "vertical_flip", "quarter_turns", "rotation", "scale", "shear", "elastic", "brightness", "contrast", "gamma", "hue", "saturation",
    "blur", "noise", "distortion", "barrel", "pincushion", "sharpen",
)  # fmt: skip


def golden_source(height, width, channels):
    """(image, mask) of whole-number arithmetic, the same on every machine: ramps with edges, and blocks of four ids."""
    y, x, c = np.ogrid[:height, :width, :channels]
    image = (y * (5 + c) + x * (3 + 2 * c) + (y // 6 + x // 5) % 2 * 60) % 211 + 30
    return image.astype(np.uint8), ((y // 8 + x // 7) % 4)[..., :1].astype(np.uint8)


def golden_cases():
    """label -> (settings of an Augment, shape of the image, [(seed, position)])."""
    wild = {  # strong, so that many places of the order show
        "rotation_degrees": (-180.0, 180.0), "scale_factor": (0.7, 1.6), "shear_factor": (-0.3, 0.3), "elastic_amplitude": (2.0, 4.0), "elastic_spacing": 32,
        "distortion_share": (0.05, 0.1), "distortion_sigma": 6.0, "barrel_radius": (0.3, 0.6), "barrel_amount": (0.2, 0.5), "barrel_center": (0.2, 0.8),
        "brightness_levels": (-60.0, 60.0), "contrast_factor": (0.5, 1.6), "gamma_exponent": (0.5, 2.0), "hue_degrees": (-90.0, 90.0),
        "saturation_factor": (0.3, 2.0), "blur_sigma": (0.3, 2.5), "noise_std": (2.0, 20.0), "sharpen_k": (0.2, 1.0),
    }  # fmt: skip
    later = {f"{name}_probability": 0.0 for name in OPERATIONS if name not in RELEASED}

    def of(share, *members):
        return later | {f"{name}_probability": share if name in members else 0.0 for name in RELEASED}

    cases = {}
    for name in RELEASED:
        cases[f"{name}, square"] = of(1.0, name), (33, 33, 3), [(7, 11)]
        cases[f"{name}, gray"] = of(1.0, name), (48, 40, 1), [(-1, 2**40)]
    exact, warps, colors = ([operation.name for operation in stage if operation.name in RELEASED] for stage in (REORDERS, WARPS, COLORS))
    for label, members in (("exact", exact), ("warps", warps), ("colors", colors), ("all", RELEASED)):
        cases[f"{label} together, square"] = wild | of(1.0, *members), (32, 32, 3), [(0, 1), (0, 2), (2**40, 3)]
        cases[f"{label} together, wide"] = wild | of(1.0, *members), (24, 45, 3), [(3, 0)]
        cases[f"{label} together, gray"] = wild | of(1.0, *members), (33, 33, 1), [(3, 5)]
    cases["half of them"] = wild | of(0.5, *RELEASED), (33, 33, 3), [(1, position) for position in range(4)]
    cases["defaults"] = later, (24, 24, 3), [(5, position) for position in range(12)]
    return cases


def golden_results(case):
    """[(label of the example, image, mask)] of one of `golden_cases`."""
    settings, shape, places = golden_cases()[case]
    augment, (image, mask) = Augment(**settings), golden_source(*shape)
    graph = tf.function(lambda seed, position: augment(tf.constant(image), tf.constant(mask), seed=seed, position=position))
    keys = [tuple(tf.constant(number, tf.int64) for number in place) for place in places]
    return [(f"{case}, {seed}, {position}", *(array.numpy() for array in graph(*key))) for key, (seed, position) in zip(keys, places, strict=True)]


def parameters_of_augment():
    """What gin can bind: `name: type = default`, a line each, sorted."""
    signature = inspect.signature(gin.get_configurable("augment"), eval_str=True)
    return sorted(f"{kind.kind.description} {kind}" for kind in signature.parameters.values())


def write_golden(path=GOLDEN):
    """Writes the golden file. It was made on release 7ce7f2e (AMD EPYC with AVX-512, oneDNN on), with this file copied to its tests/:

    cd tests && PYTHONPATH=.. python -c "import test_augmentation_golden; test_augmentation_golden.write_golden('augmentation_golden.npz')"

    A change that is meant to alter pixels writes it anew and says so in its message; any other leaves it alone.
    """
    arrays = {"signature": np.array(parameters_of_augment())}
    for case in golden_cases():
        for label, image, mask in golden_results(case):
            arrays |= {f"{label}, image": image, f"{label}, mask": mask}
    np.savez_compressed(path, **arrays)


@functools.cache
def golden():
    with np.load(GOLDEN, allow_pickle=False) as file:
        return dict(file)


def golden_complaints(case):
    """What differs from the release. Another type of CPU may round the last bit of a float elsewhere; on the type that made the file nothing differs."""
    found = []
    for label, image, mask in golden_results(case):
        expected_image, expected_mask = golden()[f"{label}, image"], golden()[f"{label}, mask"]
        for name, values, expected in (("image", image, expected_image), ("mask", mask, expected_mask)):
            differing = np.count_nonzero(values != expected)
            if differing > max(3, 0.001 * values.size):  # without oneDNN one value of an image of 1,089 differs, which is 0.1 % already
                found.append(f"{label}: {differing} of {values.size} values of the {name}")
        if (most := np.abs(image.astype(int) - expected_image).max()) > 1:
            found.append(f"{label}: the image by up to {most} grey levels")
    return found


@pytest.mark.parametrize("case", [slow_unless(not case.endswith(", gray"), case) for case in golden_cases()])
def test_pixels_are_those_of_the_release(case):
    assert golden_complaints(case) == []


@pytest.mark.parametrize(
    "stage, first, second, case",
    [
        ("REORDERS", "quarter_turns", "horizontal_flip", "exact together, square"),
        ("WARPS", "barrel", "pincushion", "warps together, square"),
        ("COLORS", "contrast", "gamma", "colors together, square"),
    ],
)
def test_another_order_of_two_operations_is_seen(monkeypatch, stage, first, second, case):
    other = {first: OPERATIONS[second], second: OPERATIONS[first]}
    monkeypatch.setattr(augmentation, stage, [other.get(operation.name, operation) for operation in getattr(augmentation, stage)])
    assert golden_complaints(case)


def test_another_key_number_is_seen(monkeypatch):
    monkeypatch.setattr(OPERATIONS["brightness"], "key_number", 80)
    assert golden_complaints("brightness, square")


def test_the_bindings_of_the_release_keep_name_type_and_default():
    assert set(golden()["signature"].tolist()) <= set(parameters_of_augment())
