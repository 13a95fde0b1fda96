"""LabelMap: colours to ids and back, refusals whose printed cure cures, inference."""

import json
import re
import subprocess
import time

import gin
import numpy as np
import pytest

from flexseg.errors import UserError
from flexseg.files.label_map import LabelMap, count_colors, infer_label_map

BLACK_WHITE = {
    (0, 0, 0): 0,
    (255, 255, 255): 1,
}
FOUR = {(0, 0, 0): 0, (0, 255, 0): 1, (255, 0, 0): 2, (0, 0, 255): 3}


@pytest.fixture(autouse=True)
def no_bindings():
    gin.clear_config()
    yield
    gin.clear_config()


def grey_as_rgb(mask):
    return np.repeat(mask[..., None], 3, axis=2)


def bindings_of(cure):
    """What bash would hand over for the --gin_param flags of a cure."""
    flags = re.findall(r'--gin_param="(?:\\.|[^"\\])*"', cure)
    assert len(flags) == cure.count("--gin_param")
    words = subprocess.run(["bash", "-c", "printf '%s\\n' " + " ".join(flags)], check=True, capture_output=True, text=True).stdout
    return [word.removeprefix("--gin_param=") for word in words.splitlines()]


def refusal(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value).replace("\n  In call to configurable 'label_map'", "")  # gin's own addition
    return caught.value


def test_colours_become_ids_and_ids_become_the_same_colours():
    ids = np.random.default_rng(0).integers(0, 4, (37, 53)).astype(np.uint8)
    label_map = LabelMap(rgb_map=FOUR)
    mask = np.array(label_map.colors, np.uint8)[ids]
    encoded = label_map.encode(mask, "a.png")
    assert encoded.dtype == np.uint8
    np.testing.assert_array_equal(encoded, ids)
    np.testing.assert_array_equal(label_map.decode(encoded), mask)


def test_255_classes_keep_their_ids_apart_from_ignore():
    label_map = LabelMap(values={v: v for v in range(255)}, ignore=(255,))
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(label_map.encode(mask, "a.png"), mask)


def test_grey_masks_work_with_an_rgb_map_and_grey_rgb_masks_with_values():
    mask = np.array([[0, 255], [255, 0]], np.uint8)
    for label_map in (LabelMap(rgb_map=BLACK_WHITE), LabelMap(values={0: 0, 255: 1})):
        for form in (mask, grey_as_rgb(mask)):
            np.testing.assert_array_equal(label_map.encode(form, "a.png"), mask // 255)


def test_equal_greys_are_equal_however_they_were_given():
    assert LabelMap(rgb_map=BLACK_WHITE) == LabelMap(values={255: 1, 0: 0})
    assert LabelMap(rgb_map=BLACK_WHITE) != LabelMap(rgb_map=BLACK_WHITE, off_map="nearest")


def test_names_and_background_are_derived_only_where_they_are_plain():
    two = LabelMap(rgb_map=BLACK_WHITE)
    assert (two.class_names, two.background, two.foreground_classes) == (("background", "foreground"), 0, (1,))
    land = LabelMap(rgb_map={(132, 41, 246): 0, (60, 16, 152): 1})
    assert (land.class_names, land.background, land.foreground_classes) == (("class_0", "class_1"), None, (0, 1))
    assert LabelMap(rgb_map=BLACK_WHITE, background=None).background is None
    assert LabelMap(values={0: 0, 255: 1}, background=1).foreground_classes == (0,)


def test_ignored_colours_become_255_and_come_back():
    label_map = LabelMap(rgb_map=FOUR, ignore=((155, 155, 155),))
    mask = np.array([[[155, 155, 155], [255, 0, 0]]], np.uint8)
    ids = label_map.encode(mask, "a.png")
    np.testing.assert_array_equal(ids, [[255, 2]])
    np.testing.assert_array_equal(label_map.decode(ids), mask)


def test_several_colours_may_be_one_class():
    label_map = LabelMap(rgb_map={(0, 0, 0): 0, (255, 0, 0): 1, (0, 255, 0): 1})
    np.testing.assert_array_equal(label_map.encode(np.array([[[0, 255, 0], [255, 0, 0]]], np.uint8), "a.png"), [[1, 1]])
    assert label_map.colors == [(0, 0, 0), (255, 0, 0)]


@pytest.mark.parametrize(
    "arguments, where",
    [
        ({}, "label_map"),
        ({"rgb_map": BLACK_WHITE, "values": {0: 0, 1: 1}}, "label_map"),
        ({"rgb_map": "black"}, "label_map.rgb_map"),
        ({"rgb_map": {(0, 0, 0): 0, (255, 255, 255): 2}}, "label_map.rgb_map"),
        ({"rgb_map": {(0, 0, 0): 0, (255, 255, 256): 1}}, "label_map.rgb_map"),
        ({"rgb_map": {(0, 0): 0, (255, 255): 1}}, "label_map.rgb_map"),
        ({"rgb_map": {0: 0, 255: 1}}, "label_map.rgb_map"),
        ({"rgb_map": {(0, 0, 0): 0, (255, 255, 255): True}}, "label_map.rgb_map"),
        ({"rgb_map": {(0, 0, 0): 0, (255, 255, 255): 1.0}}, "label_map.rgb_map"),
        ({"values": {(0, 0, 0): 0, (1, 1, 1): 1}}, "label_map.values"),
        ({"values": {v: v for v in range(256)}}, "label_map.values"),
        ({"values": {0: 0}}, "label_map.values"),
        ({"rgb_map": BLACK_WHITE, "class_names": ("a",)}, "label_map.class_names"),
        ({"rgb_map": BLACK_WHITE, "class_names": ("a", "a")}, "label_map.class_names"),
        ({"rgb_map": BLACK_WHITE, "background": 2}, "label_map.background"),
        ({"rgb_map": BLACK_WHITE, "ignore": (155, 0, 0)}, "label_map.ignore"),
        ({"rgb_map": BLACK_WHITE, "off_map": "guess"}, "label_map.off_map"),
        ({"rgb_map": FOUR, "off_map": "threshold"}, "label_map.off_map"),
        ({"rgb_map": BLACK_WHITE, "threshold": 0}, "label_map.threshold"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(arguments, where):
    assert refusal(lambda: LabelMap(**arguments)).where == where


def test_a_mask_value_off_the_map_is_refused_by_file_value_and_pixel_count():
    mask = np.zeros((40, 50), np.uint8)
    mask[:3, :4], mask[5] = 76, 255
    error = refusal(LabelMap(rgb_map=BLACK_WHITE).encode, mask, "masks/a.png")
    assert error.where == "masks/a.png"
    assert error.found == "76 (12 pixels)"


def test_the_five_most_frequent_colours_are_named_and_the_others_counted():
    mask = np.zeros((10, 100), np.uint8)
    for value in range(1, 9):
        mask[value, :value] = value * 10
    error = refusal(LabelMap(rgb_map=BLACK_WHITE).encode, grey_as_rgb(mask), "a.png")
    assert (
        error.found == "(80,80,80) (8 pixels), (70,70,70) (7 pixels), (60,60,60) (6 pixels), (50,50,50) (5 pixels), "
        "(40,40,40) (4 pixels) and 3 others (6 pixels)"
    )


def test_a_class_missing_from_the_map_is_cured_by_the_printed_rgb_map():
    mask = np.zeros((20, 20, 3), np.uint8)
    mask[:5], mask[5:7], mask[7:14] = (0, 255, 0), (255, 0, 0), (255, 255, 255)
    error = refusal(LabelMap(rgb_map=BLACK_WHITE).encode, mask, "a.png")
    assert '--gin_param="label_map.rgb_map={(0,0,0):0,(255,255,255):1,(0,255,0):2,(255,0,0):3}"' in error.cure
    assert "off_map" not in error.cure
    merge, ignore = bindings_of(error.cure)
    assert ignore == "label_map.ignore=((0,255,0),(255,0,0))".replace(",", ", ")
    gin.parse_config(merge)
    np.testing.assert_array_equal(np.bincount(LabelMap().encode(mask, "a.png").ravel()), [120, 140, 100, 40])


def test_the_printed_cure_brings_names_for_the_new_classes_where_names_were_given():
    mask = np.array([[0, 255, 9, 9]], np.uint8)
    error = refusal(LabelMap(values={0: 0, 255: 1}, class_names=("tissue's rest", "cost $5 `a`")).encode, mask, "a.png")
    gin.parse_config([b for b in bindings_of(error.cure) if "off_map" not in b and "ignore" not in b])
    assert LabelMap().class_names == ("tissue's rest", "cost $5 `a`", "class_2")


@pytest.mark.parametrize("coloured", [False, True])
def test_interpolation_greys_and_coloured_fringes_are_cured_by_the_printed_off_map(coloured):
    ramp = np.clip(np.arange(-600, 856, 2), 0, 255).astype(np.uint8)
    mask = grey_as_rgb(np.tile(ramp, (30, 1)))
    if coloured:
        mask[..., 0], mask[..., 2] = np.roll(mask[..., 0], 2, axis=1), np.roll(mask[..., 2], -2, axis=1)
    error = refusal(LabelMap(rgb_map=BLACK_WHITE).encode, mask, "a.png")
    assert bindings_of(error.cure) == ["label_map.off_map='nearest'"]
    gin.parse_config(["label_map.rgb_map={(0,0,0):0,(255,255,255):1,}", *bindings_of(error.cure)])
    assert set(np.unique(LabelMap().encode(mask, "a.png"))) == {0, 1}


def test_a_few_rare_greys_get_both_cures_with_snapping_first():
    mask = np.zeros((100, 100), np.uint8)
    mask[50:], mask[0, :3] = 255, (127, 128, 250)
    first, second, *rest = bindings_of(refusal(LabelMap(rgb_map=BLACK_WHITE).encode, mask, "a.png").cure)
    assert first == "label_map.off_map='nearest'" and second.startswith("label_map.rgb_map=")
    assert rest == ["label_map.ignore=((127, 127, 127), (128, 128, 128), (250, 250, 250))"]
    gin.parse_config(["label_map.rgb_map={(0,0,0):0,(255,255,255):1}", *rest])
    assert (LabelMap().encode(mask, "a.png") == 255).sum() == 3, "the third cure: they count nowhere"


def test_a_rare_colour_of_its_own_gets_both_cures_with_the_class_first():
    mask = np.zeros((100, 100, 3), np.uint8)
    mask[0, :3] = (255, 0, 0)
    first, second, third = bindings_of(refusal(LabelMap(rgb_map=BLACK_WHITE).encode, mask, "a.png").cure)
    assert third == "label_map.ignore=((255, 0, 0),)" and first.startswith("label_map.rgb_map=") and second == "label_map.off_map='nearest'"


def test_nearest_agrees_with_a_brute_force_search():
    rng = np.random.default_rng(1)
    mask = rng.integers(0, 256, (30, 30, 3)).astype(np.uint8)
    label_map = LabelMap(rgb_map=FOUR, ignore=((155, 155, 155),), off_map="nearest")
    palette, ids = np.array([*label_map.colors, (155, 155, 155)]), np.array([0, 1, 2, 3, 255])
    distance = ((mask[:, :, None].astype(int) - palette) ** 2).sum(-1)
    np.testing.assert_array_equal(label_map.encode(mask, "a.png"), ids[distance.argmin(-1)])


def test_nearest_snaps_greys_to_the_nearest_value():
    label_map = LabelMap(values={0: 0, 100: 1, 200: 2}, off_map="nearest")
    np.testing.assert_array_equal(label_map.encode(np.array([[0, 49, 51, 149, 151, 255]], np.uint8), "a.png"), [[0, 0, 1, 1, 2, 2]])


@pytest.mark.parametrize("threshold", [60, 128])
def test_threshold_cuts_at_the_luminance_and_keeps_the_brighter_class(threshold):
    ramp = np.arange(1, 255, dtype=np.uint8)[None]
    straight = LabelMap(rgb_map=BLACK_WHITE, off_map="threshold", threshold=threshold).encode(ramp, "a.png")
    np.testing.assert_array_equal(straight, ramp >= threshold)
    inverted = LabelMap(rgb_map={(255, 255, 255): 0, (0, 0, 0): 1}, off_map="threshold", threshold=threshold).encode(grey_as_rgb(ramp), "a.png")
    np.testing.assert_array_equal(inverted, ramp < threshold)


def test_a_map_survives_json():
    for label_map in (
        LabelMap(values={0: 0, 7: 1}, class_names=("a", "b"), background=None, ignore=(255,), off_map="threshold", threshold=4),
        LabelMap(rgb_map={**FOUR, (1, 1, 1): 2}, ignore=((155, 155, 155),)),
    ):
        again = LabelMap.from_json(json.loads(json.dumps(label_map.to_json())))
        assert again == label_map and again.to_json() == label_map.to_json()


def test_a_damaged_json_is_a_users_mistake():
    saved = LabelMap(rgb_map=BLACK_WHITE).to_json()
    del saved["off_map"]
    assert refusal(LabelMap.from_json, saved).where == "label_map.json"


def test_a_saved_map_is_not_changed_by_the_bindings_of_the_moment():
    label_map = LabelMap(rgb_map=BLACK_WHITE)
    gin.parse_config(["label_map.values={1:0,2:1}", "label_map.off_map='nearest'", "label_map.class_names=('x','y')", "label_map.ignore=(9,)"])
    assert LabelMap.from_json(label_map.to_json()) == label_map


def test_ids_that_are_no_class_are_not_decoded():
    with pytest.raises(ValueError, match="got up to 7"):
        LabelMap(rgb_map=BLACK_WHITE).decode(np.array([[0, 7, 255]]))


def test_counts_are_those_of_the_pixels():
    assert count_colors(np.array([[0, 7, 7]], np.uint8)) == {0: 1, 7: 2}
    assert count_colors(np.array([[[1, 2, 3], [255, 0, 0], [1, 2, 3]]], np.uint8)) == {(1, 2, 3): 2, (255, 0, 0): 1}


@pytest.mark.parametrize(
    "counts, values",
    [
        ({0: 9, 255: 1}, {0: 0, 255: 1}),
        ({0: 9, 1: 1}, {0: 0, 1: 1}),
        ({(0, 0, 0): 9, (255, 255, 255): 1}, {0: 0, 255: 1}),
        ({0: 5, (0, 0, 0): 9, (255, 255, 255): 1}, {0: 0, 255: 1}),
        ({0: 1, 2: 3, 1: 2}, {0: 0, 1: 1, 2: 2}),
    ],
)
def test_plain_masks_need_no_binding(counts, values):
    label_map = infer_label_map(counts)
    assert label_map == LabelMap(values=values) and label_map.background == 0


def test_an_inferred_map_takes_its_names_from_gin():
    gin.parse_config("label_map.class_names = ('rest', 'nucleus')")
    assert infer_label_map({0: 9, 255: 1}).class_names == ("rest", "nucleus")


def test_colours_that_nobody_mapped_are_cured_by_the_printed_rgb_map():
    counts = {(60, 16, 152): 50, (132, 41, 246): 80, (110, 193, 228): 20, (0, 0, 0): 1}
    error = refusal(infer_label_map, counts)
    assert bindings_of(error.cure) == ["label_map.rgb_map={(0,0,0):0,(132,41,246):1,(60,16,152):2,(110,193,228):3}"]
    gin.parse_config(bindings_of(error.cure))
    assert LabelMap().num_classes == 4


def test_the_usual_ignore_value_is_offered_as_such():
    error = refusal(infer_label_map, {0: 50, 1: 20, 2: 20, 255: 5})
    gin.parse_config(bindings_of(error.cure))
    np.testing.assert_array_equal(LabelMap().encode(np.array([[0, 1, 2, 255]], np.uint8), "a.png"), [[0, 1, 2, 255]])


def test_too_many_colours_are_cured_by_the_printed_pair_of_bindings():
    counts = {(v, v, v): 5 for v in range(256)} | {(0, 0, 0): 90000, (255, 255, 255): 9000, (3, 2, 9): 2}
    error = refusal(infer_label_map, counts)
    assert '--gin_param="label_map.rgb_map={(0,0,0):0,(255,255,255):1}" --gin_param="label_map.off_map=\'nearest\'"' in error.cure
    gin.parse_config(bindings_of(error.cure))
    assert LabelMap().off_map == "nearest"


def test_a_grey_ramp_is_not_taken_for_class_ids():
    refusal(infer_label_map, {v: 100 for v in range(181)})


def test_masks_of_one_value_are_refused():
    refusal(infer_label_map, {0: 100})


def test_a_mask_of_512_square_is_encoded_within_10_ms():
    mask = np.array(LabelMap(rgb_map=FOUR).colors, np.uint8)[np.random.default_rng(0).integers(0, 4, (512, 512))]
    label_map, times = LabelMap(rgb_map=FOUR), []
    for _ in range(20):
        start = time.perf_counter()
        label_map.encode(mask, "a.png")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.010
