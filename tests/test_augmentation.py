"""Augmentation: image and mask move together, and draws depend on (seed, position, operation) alone."""

import dataclasses
import functools
import re

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from flexseg.data import augmentation, geometry
from flexseg.data.augmentation import OPERATIONS, Augment
from flexseg.errors import UserError

EXACT = ("horizontal_flip", "vertical_flip", "quarter_turns")
WARPS = ("rotation", "scale", "shear", "elastic", "distortion", "barrel", "pincushion")
COLORS = ("brightness", "contrast", "gamma", "hue", "saturation", "blur", "noise", "sharpen")


def only(*operations, **settings):
    """An Augment with these operations always on and all others off."""
    return Augment(**{f"{name}_probability": float(name in operations) for name in OPERATIONS}, **settings)


def picture(height=64, width=64, channels=3, seed=0):
    """Smooth colours with some grain, uint8."""
    noise = np.random.default_rng(seed).uniform(0, 255, (height, width, channels))
    smooth = scipy.ndimage.gaussian_filter(noise, (6, 6, 0))
    smooth = (smooth - smooth.min()) / np.ptp(smooth) * 170 + 40
    return np.clip(smooth + (noise - 128) / 8, 0, 255).astype(np.uint8)


def disc(size=256, radius=60):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return ((y + 12) ** 2 + (x - 17) ** 2 <= radius**2).astype(np.uint8)[..., None]


def new_graph(augment):
    return tf.function(lambda image, mask, seed, position: augment(image, mask, seed=seed, position=position))


kept_graph = functools.lru_cache(new_graph)  # tracing is most of this file's time


def traced(augment, image, mask, seed=3, graph=None):
    """position -> (image, mask) as arrays, through one graph."""
    graph = graph or kept_graph(augment)
    fixed = tf.constant(image), tf.constant(mask), tf.constant(seed, tf.int64)
    return lambda position: tuple(array.numpy() for array in graph(*fixed, tf.constant(position, tf.int64)))


def dice_of_image_and_mask(image, mask, truth_id=1):
    seen = mask != 255
    found, truth = (image[..., :1] >= 127.5)[seen], (mask == truth_id)[seen]
    return 2 * np.sum(found & truth) / (found.sum() + truth.sum())


@pytest.mark.parametrize("operations", [(name,) for name in EXACT + WARPS] + [EXACT + WARPS], ids="+".join)
def test_image_and_mask_move_together(operations):
    mask = disc()
    run = traced(only(*operations, elastic_spacing=64), np.repeat(mask * 255, 3, axis=-1), mask)
    moved = 0
    for position in range(4):
        image, warped = run(position)
        assert dice_of_image_and_mask(image, warped) >= 0.99
        moved += not np.array_equal(warped, mask)
    assert moved == 4


def test_the_agreement_of_image_and_mask_is_a_test_that_can_fail():
    mask = disc()
    image, _ = traced(only("elastic"), np.repeat(mask * 255, 3, axis=-1), mask)(0)
    _, other = traced(only("elastic"), np.repeat(mask * 255, 3, axis=-1), mask)(1)
    assert dice_of_image_and_mask(image, other) < 0.99


@pytest.mark.parametrize("augment", [only(), Augment(enabled=False)], ids=["probability 0", "disabled"])
@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_drawn_changes_nothing(augment, channels):
    image, mask = picture(40, 56, channels), picture(40, 56, 1, seed=1)
    new_image, new_mask = traced(augment, image, mask)(5)
    np.testing.assert_array_equal(new_image, image)
    np.testing.assert_array_equal(new_mask, mask)


def test_the_same_seed_and_position_give_the_same_bits_in_two_calls_and_two_graphs():
    image, mask = picture(), picture(channels=1) % 3
    everything = only(*OPERATIONS)
    first, second = traced(everything, image, mask), traced(everything, image, mask, graph=new_graph(everything))
    for one, other in zip(first(9) + first(9), second(9) + second(9), strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_position_or_seed_gives_another_image():
    image, mask = picture(), picture(channels=1) % 3
    pairs = [(3, 0), (3, 1), (3, 2**32), (3, 2**40), (4, 0), (-1, 0), (2**40, 0)]
    results = {traced(only("rotation"), image, mask, seed=seed)(position)[0].tobytes() for seed, position in pairs}
    assert len(results) == len(pairs)


@pytest.mark.parametrize("settings", [{"elastic_amplitude": (8.0, 8.0)}, {"noise_std": (5.0, 5.0)}], ids=["elastic", "noise"])
def test_a_field_of_random_numbers_is_not_the_same_for_all_images(settings):
    image, mask = picture(), picture(channels=1) % 3
    run = traced(only(next(iter(settings)).split("_")[0], **settings), image, mask)
    assert len({run(position)[0].tobytes() for position in range(4)}) == 4


def test_neighbouring_seeds_do_not_share_a_shifted_stream():
    image, mask = picture(), picture(channels=1) % 3
    one, next_one = traced(only("rotation"), image, mask, seed=3), traced(only("rotation"), image, mask, seed=4)
    assert {one(p)[0].tobytes() for p in range(8)}.isdisjoint({next_one(p)[0].tobytes() for p in range(8)})


@pytest.mark.parametrize("operation, expected", [("horizontal_flip", np.fliplr), ("vertical_flip", np.flipud)])
def test_a_flip_is_exact(operation, expected):
    image, mask = picture(40, 56), picture(40, 56, 1)
    for before, after in zip((image, mask), traced(only(operation), image, mask)(0), strict=True):
        np.testing.assert_array_equal(after, expected(before))


def test_quarter_turns_are_exact_and_every_turn_comes():
    image, mask = picture(), picture(channels=1)
    run, turns = traced(only("quarter_turns"), image, mask), set()
    for position in range(24):
        new_image, new_mask = run(position)
        turn = [k for k in (0, 1, 2, 3) if np.array_equal(new_image, np.rot90(image, k))]
        assert len(turn) == 1
        np.testing.assert_array_equal(new_mask, np.rot90(mask, turn[0]))
        turns.add(turn[0])
    assert turns == {1, 2, 3}


def test_quarter_turns_with_both_flips_stay_exact():
    image, mask = picture(), picture(channels=1)
    run = traced(only(*EXACT), image, mask)
    for position in range(6):
        new_image, new_mask = run(position)
        turn = [k for k in (1, 2, 3) if np.array_equal(new_image, np.rot90(image, k)[::-1, ::-1])]
        assert len(turn) == 1
        np.testing.assert_array_equal(new_mask, np.rot90(mask, turn[0])[::-1, ::-1])


def test_an_image_that_is_not_square_is_turned_by_180_degrees_only():
    image, mask = picture(40, 56), picture(40, 56, 1)
    run = traced(only("quarter_turns"), image, mask)
    for position in range(6):
        np.testing.assert_array_equal(run(position)[0], np.rot90(image, 2))
        np.testing.assert_array_equal(run(position)[1], np.rot90(mask, 2))


@pytest.mark.parametrize("operations", [WARPS, ("scale",)], ids="+".join)
def test_a_mask_keeps_its_ids_and_uncovered_pixels_are_ignored(operations):
    mask = np.where(disc(96, 30) > 0, 7, np.where(disc(96, 20) > 0, 2, 4)).astype(np.uint8)
    _, warped = traced(only(*operations, scale_factor=(0.5, 0.5), elastic_spacing=64), picture(96, 96), mask)(0)
    assert set(np.unique(warped)) <= {2, 4, 7, 255}
    if operations == ("scale",):
        ignored = warped[..., 0] == 255
        assert not ignored[24:72, 24:72].any() and ignored[:24].all() and ignored[:, 72:].all()  # 96 pixels shrink to the middle 48


@pytest.mark.parametrize("operation", COLORS)
def test_a_colour_operation_changes_the_image_and_leaves_the_mask_alone(operation):
    image, mask = picture(), picture(channels=1)
    new_image, new_mask = traced(only(operation), image, mask)(0)
    assert np.any(new_image != image)
    np.testing.assert_array_equal(new_mask, mask)


def test_switching_one_operation_on_leaves_the_draws_of_the_others_alone():
    flat, mask = np.full((64, 64, 3), 90, np.uint8), picture(channels=1)
    sometimes = dataclasses.replace(only(), brightness_probability=0.5)
    beside = dataclasses.replace(sometimes, rotation_probability=1.0, horizontal_flip_probability=0.5, hue_probability=1.0)
    levels = [[int(traced(augment, flat, mask)(position)[0][32, 32, 0]) for position in range(12)] for augment in (sometimes, beside)]
    assert levels[0] == levels[1] and len(set(levels[0])) > 3


def test_a_probability_is_the_share_of_images_that_change():
    image, mask = picture(8, 8), picture(8, 8, 1)
    run = traced(dataclasses.replace(only(), horizontal_flip_probability=0.25), image, mask)
    share = np.mean([np.any(run(position)[0] != image) for position in range(400)])
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400)


@pytest.mark.parametrize("shape", [(40, 56, 1), (2, 3, 3)])
def test_every_operation_together_keeps_shape_and_dtype(shape):
    image, mask = picture(*shape), picture(*shape[:2], 1) % 4
    new_image, new_mask = traced(only(*OPERATIONS), image, mask)(1)
    assert new_image.shape == shape and new_image.dtype == np.uint8
    assert new_mask.shape == (*shape[:2], 1) and set(np.unique(new_mask)) <= {0, 1, 2, 3, 255}


def test_hue_and_saturation_are_skipped_on_gray_images():
    image, mask = picture(channels=1), picture(channels=1)
    np.testing.assert_array_equal(traced(only("hue", "saturation"), image, mask)(0)[0], image)


def test_a_barrel_bulges_outwards_a_pincushion_inwards_and_neither_reaches_beyond_its_circle():
    rings, mask = np.zeros((129, 129, 3), np.uint8), disc(129, 20)
    settings = {"barrel_center": (0.5, 0.5), "barrel_radius": (0.4, 0.4), "barrel_amount": (0.3, 0.3)}
    mask = np.roll(mask, (12, -17), (0, 1))  # into the middle
    areas = {name: np.sum(traced(only(name, **settings), rings, mask)(0)[1] == 1) for name in ("barrel", "pincushion")}
    assert areas["barrel"] > 1.2 * mask.sum() and areas["pincushion"] < 0.8 * mask.sum()
    image = picture(129, 129)
    far = np.hypot(*np.mgrid[-64:65, -64:65]) > 0.4 * 129 + 1
    for name in areas:
        np.testing.assert_array_equal(traced(only(name, **settings), image, mask)(0)[0][far], image[far])


def test_a_distortion_moves_nothing_further_than_its_share_of_the_width():
    ramp = np.repeat(np.broadcast_to(np.arange(128, dtype=np.uint8), (128, 128))[..., None], 3, -1)
    warped = traced(only("distortion", distortion_share=(0.04, 0.04), distortion_sigma=10.0), ramp, picture(128, 128, 1))(0)[0]
    moved = np.abs(warped[8:-8, 8:-8].astype(int) - ramp[8:-8, 8:-8])
    assert 4 <= moved.max() <= 0.04 * 128 + 1


def test_a_parallel_deterministic_map_gives_each_position_what_it_gets_alone():
    images = np.stack([picture(seed=n) for n in range(8)])
    masks = np.stack([picture(channels=1, seed=n) % 3 for n in range(8)])
    augment = only(*OPERATIONS)
    order = np.array([5, 2, 7, 0], np.int64)

    def data(places, **options):
        found = tf.data.Dataset.from_tensor_slices((images[places], masks[places], places))
        return found.map(lambda image, mask, position: augment(image, mask, seed=3, position=position), **options)

    parallel = data(order, num_parallel_calls=2, deterministic=True)
    assert parallel.element_spec == (tf.TensorSpec((64, 64, 3), tf.uint8), tf.TensorSpec((64, 64, 1), tf.uint8))
    for position, (image, mask) in zip(order, parallel.batch(3).unbatch().as_numpy_iterator(), strict=True):
        ((alone_image, alone_mask),) = data(order[order == position]).as_numpy_iterator()
        np.testing.assert_array_equal(image, alone_image)
        np.testing.assert_array_equal(mask, alone_mask)
        # A function called by itself has its constants folded into others, which a dataset's function has not: the last bit of a float may differ.
        called_image, called_mask = traced(augment, images[position], masks[position])(position)
        assert np.sum(image != called_image) <= 3 and np.abs(image.astype(int) - called_image).max() <= 1
        np.testing.assert_array_equal(mask, called_mask)


def test_a_picture_without_static_size_is_refused():
    graph = tf.function(lambda image: only()(image, image, seed=0, position=0))
    with pytest.raises(ValueError, match="static shape"):
        graph.get_concrete_function(tf.TensorSpec([None, None, 1], tf.uint8))


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"rotation_probability": 1.5}, "augment.rotation_probability"),
        ({"hue_probability": float("nan")}, "augment.hue_probability"),
        ({"scale_factor": (1.2, 0.8)}, "augment.scale_factor"),
        ({"scale_factor": (0.0, 1.0)}, "augment.scale_factor"),
        ({"noise_std": (-1.0, 2.0)}, "augment.noise_std"),
        ({"blur_sigma": (0.0, 1.0)}, "augment.blur_sigma"),
        ({"gamma_exponent": (1.0,)}, "augment.gamma_exponent"),
        ({"elastic_spacing": 0}, "augment.elastic_spacing"),
        ({"barrel_amount": (0.0, 1.0)}, "augment.barrel_amount"),
        ({"distortion_sigma": 0.5}, "augment.distortion_sigma"),
        ({"elastic_spacing": 32}, "augment.elastic_amplitude"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(settings, named):
    with pytest.raises(UserError, match=named):
        Augment(**settings)


def test_a_positive_rotation_turns_counter_clockwise_and_a_scale_above_one_enlarges():
    image, mask = np.zeros((65, 65, 3), np.uint8), np.zeros((65, 65, 1), np.uint8)
    mask[25:40, 41:56] = 1  # right of the centre
    _, turned = traced(only("rotation", rotation_degrees=(90.0, 90.0)), image, mask)(0)
    np.testing.assert_array_equal(turned, np.rot90(mask))
    _, large = traced(only("scale", scale_factor=(1.25, 1.25)), image, mask)(0)
    assert np.sum(large == 1) == pytest.approx(15**2 * 1.25**2, rel=0.15)
    assert np.mean(np.nonzero(large[..., 0] == 1)[1]) - 32 == pytest.approx(16 * 1.25, abs=0.6)


def test_the_allowed_elastic_amplitude_does_not_fold_the_image_along_an_axis():
    spacing = 16
    grid = [geometry.control_points(257, spacing)] * 2
    control = 2 * spacing / 8 * np.sign(np.random.default_rng(0).normal(size=[2, *grid])).astype(np.float32)  # every point at the cut
    field = geometry.displacement_field(control, size=(257, 257), spacing=spacing).numpy()
    assert np.diff(field[0], axis=0).min() > -1 and np.diff(field[1], axis=1).min() > -1


def test_noise_has_the_standard_deviation_asked_for():
    grey, mask = np.full([128, 128, 3], 128, np.uint8), np.zeros([128, 128, 1], np.uint8)
    difference = traced(only("noise", noise_std=(5.0, 5.0)), grey, mask)(0)[0].astype(np.float32) - 128
    assert np.std(difference) == pytest.approx(5.0, rel=0.03) and abs(difference.mean()) < 0.1


# What an operation declares


def test_every_operation_is_declared_once_with_a_key_number_of_its_own():
    declared = [*augmentation.REORDERS, *augmentation.WARPS, *augmentation.COLORS]
    assert sorted(operation.name for operation in declared) == sorted(OPERATIONS)
    assert len({operation.key_number for operation in declared}) == len(declared)


def test_two_operations_have_a_binding_in_common_only_where_it_is_one_object():
    bindings = {}
    for operation in OPERATIONS.values():
        for binding in operation.bindings:
            assert bindings.setdefault(binding.name, binding) is binding


def test_every_binding_has_a_sentence_in_the_docstring():
    entries = re.findall(r"^ +(\w+): [^ ].*", Augment.__doc__.partition("Attributes:")[2].partition("Raises:")[0], re.MULTILINE)
    assert entries == [field.name for field in dataclasses.fields(Augment)]
    assert "{" not in Augment.__doc__


def test_settings_are_fixed_and_equal_where_their_values_are():
    assert Augment(blur_probability=1.0) == Augment(blur_probability=1.0) != Augment()
    with pytest.raises(dataclasses.FrozenInstanceError):
        Augment().blur_probability = 1.0
    with pytest.raises(TypeError):
        Augment(True)
