"""Panels and sheets: where the tiles lie, what their colours mean, and that nothing depends on the machine's fonts."""

import numpy as np
import pytest
from PIL import Image

from flexseg.files.label_map import LabelMap
from flexseg.pictures.lettering import font, legend_rows, shorten
from flexseg.pictures.panels import CORRECT_OUTLINE, ERROR_COLORS, error_colors, panel, save_png, sheet, tile_boxes

SIDE = 256


def label_map(**settings):
    return LabelMap(**{"rgb_map": {(0, 0, 0): 0, (0, 255, 0): 1, (255, 0, 255): 2}, "class_names": ("background", "nucleus", "stroma")} | settings)


def scene():
    """A black image; truth and prediction with one square of each kind of pixel, 32 pixels wide."""
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    truth, prediction = np.zeros((2, SIDE, SIDE), np.uint8)
    squares = {}
    kinds = {"correct": (1, 1), "false positive": (0, 1), "false negative": (1, 0), "wrong class": (1, 2), "ignored": (255, 1), "background": (0, 0)}
    for i, (name, (t, p)) in enumerate(kinds.items()):
        squares[name] = (slice(20, 52), slice(10 + 40 * i, 42 + 40 * i))
        truth[squares[name]], prediction[squares[name]] = t, p
    return image, truth, prediction, squares


def tiles(picture, *, truth, size=(SIDE, SIDE), max_side=512):
    boxes = tile_boxes(*size, truth=truth, max_side=max_side)
    return [picture[top:bottom, left:right] for left, top, right, bottom in boxes]


def middle(square):
    return (square[0].start + 16, square[1].start + 16)


def test_the_first_three_tiles_are_the_input_and_the_masks_in_their_colours():
    image, truth, prediction, squares = scene()
    image[:] = np.random.default_rng(0).integers(0, 256, image.shape)
    first, second, third, _ = tiles(panel(image, truth, prediction, label_map(), caption="a"), truth=True)
    np.testing.assert_array_equal(first, image)
    valid = truth != 255
    np.testing.assert_array_equal(second[valid], label_map().decode(truth)[valid])
    np.testing.assert_array_equal(third, label_map().decode(prediction))


def test_every_kind_of_error_has_its_colour_over_the_dark_image():
    image, truth, prediction, squares = scene()
    errors = tiles(panel(image, truth, prediction, label_map(), caption="a"), truth=True)[3].astype(int)
    for name, color in ERROR_COLORS.items():
        assert np.abs(errors[middle(squares[name])] - color).max() < 64, name  # three quarters of the colour
        others = [np.abs(errors[middle(squares[name])] - other).sum() for other in ERROR_COLORS.values()]
        assert int(np.argmin(others)) == list(ERROR_COLORS).index(name)
    dark = errors[middle(squares["background"])]
    assert (dark == errors[middle(squares["correct"])]).all()
    assert dark.max() < 40
    corner = errors[squares["correct"]][0, 0]
    assert tuple(corner) == CORRECT_OUTLINE


def test_where_a_class_is_yellow_a_wrong_class_has_another_colour():
    aerial = [(60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58), (226, 169, 41), (155, 155, 155)]  # shared/data: vegetation is yellow
    names = ("building", "land", "road", "vegetation", "water", "unlabeled")
    found = error_colors(LabelMap(rgb_map={color: k for k, color in enumerate(aerial)}, class_names=names))["wrong class"]
    assert found != ERROR_COLORS["wrong class"] == error_colors(label_map())["wrong class"]
    assert min(np.linalg.norm(np.subtract(found, color)) for color in aerial) >= 80


def test_ignored_pixels_are_hatched_in_truth_and_errors():
    image, truth, prediction, squares = scene()
    _, second, third, errors = tiles(panel(image, truth, prediction, label_map(), caption="a"), truth=True)
    for tile in (second, errors):
        assert {tuple(color) for color in tile[squares["ignored"]].reshape(-1, 3)} == {(105, 105, 105), (150, 150, 150)}
    assert tuple(third[middle(squares["ignored"])]) == (0, 255, 0)


def test_without_a_background_class_every_error_is_a_wrong_class():
    image, truth, prediction, squares = scene()
    errors = tiles(panel(image, truth, prediction, label_map(background=None), caption="a"), truth=True)[3].astype(int)
    for name in ERROR_COLORS:
        assert np.abs(errors[middle(squares[name])] - ERROR_COLORS["wrong class"]).max() < 64


def test_without_truth_the_last_tile_is_the_image_under_the_prediction():
    image, _, prediction, squares = scene()
    image[:] = 100
    picture = panel(image, None, prediction, label_map(), caption="a")
    first, _, overlay = tiles(picture, truth=False)
    np.testing.assert_array_equal(first, image)
    assert tuple(overlay[middle(squares["correct"])]) == (50, 177, 50)
    assert tuple(overlay[middle(squares["background"])]) == (100, 100, 100)


@pytest.mark.parametrize("size", [(512, 512), (40, 64), (300, 1200), (1000, 20), (2000, 1500)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_size_and_channels_give_tiles_inside_the_panel(size, channels):
    image = np.full((*size, channels), 90, np.uint8)
    mask = np.ones(size, np.uint8)
    for truth in (mask, None):
        picture = panel(image, truth, mask, label_map(), caption="a_rather_long_case_id " * 20, max_side=256)
        assert picture.dtype == np.uint8 and picture.shape[2] == 3
        first, *_, last = tiles(picture, truth=truth is not None, size=size, max_side=256)
        assert first.shape == last.shape
        assert max(first.shape) <= 256
        assert (first == 90).all()


def test_a_small_image_is_enlarged_so_that_the_letters_fit():
    mask = np.zeros((32, 32), np.uint8)
    left, top, right, bottom = tile_boxes(32, 32, truth=True)[0]
    assert (right - left, bottom - top) == (192, 192)
    assert panel(np.zeros((32, 32, 3), np.uint8), mask, mask, label_map(), caption="a").shape[1] > 4 * 192


def test_panels_of_one_size_are_of_one_size_whatever_they_show():
    image, truth, prediction, _ = scene()
    empty = np.zeros_like(truth)
    pictures = [panel(image, t, p, label_map(), caption=c) for t, p, c in ((truth, prediction, "a"), (empty, empty, "another case"))]
    assert pictures[0].shape == pictures[1].shape


def test_the_caption_is_drawn_and_a_newline_in_it_breaks_nothing():
    image, truth, prediction, _ = scene()
    plain, named = (panel(image, truth, prediction, label_map(), caption=caption) for caption in ("", "slide 3\nDice 0.5"))
    top = tile_boxes(SIDE, SIDE, truth=True)[0][1]
    assert (plain[top:] == named[top:]).all()
    assert (plain[:top] != named[:top]).any()


def test_the_legend_lists_only_errors_that_can_happen():
    image, _, _, _ = scene()
    mask = np.zeros((SIDE, SIDE), np.uint8)
    two = LabelMap(rgb_map={(0, 0, 0): 0, (255, 255, 255): 1})

    def shown(labels, color):
        picture = panel(image, mask, mask, labels, caption="a")
        return (picture[tile_boxes(SIDE, SIDE, truth=True)[0][3] :] == color).all(-1).any()

    wrong, positive = ERROR_COLORS["wrong class"], ERROR_COLORS["false positive"]
    assert (shown(two, wrong), shown(two, positive)) == (False, True)
    assert (shown(label_map(), wrong), shown(label_map(), positive)) == (True, True)
    assert (shown(label_map(background=None), wrong), shown(label_map(background=None), positive)) == (True, False)


def test_of_many_classes_the_legend_lists_those_that_are_there():
    many = LabelMap(rgb_map={(i, 255 - i, 7): i for i in range(200)})
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:10] = 150
    picture = panel(np.zeros((SIDE, SIDE, 3), np.uint8), None, mask, many, caption="a")
    legend = picture[tile_boxes(SIDE, SIDE, truth=False)[0][3] + 2 :]
    for class_id, there in ((0, True), (150, True), (70, False)):
        assert (legend == (class_id, 255 - class_id, 7)).all(-1).any() == there


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"the prediction is \[5, 4\], the image \[4, 5\]"):
        panel(np.zeros((4, 5, 3), np.uint8), None, np.zeros((5, 4), np.uint8), label_map(), caption="a")


def test_a_sheet_has_rows_and_columns_in_their_order():
    colors = [[(200, 0, 0), (0, 200, 0), (0, 0, 200)], [(200, 200, 0), (0, 200, 200), (200, 0, 200)]]
    rows = [(f"epoch {r}", [np.full((50, 60, 3), color, np.uint8) for color in row]) for r, row in enumerate(colors)]
    picture = sheet(rows, columns=["a", "b", "c"])
    centres = [[np.argwhere((picture == color).all(-1)).mean(0) for color in row] for row in colors]
    for row in centres:
        assert row[0][1] < row[1][1] < row[2][1]
        assert np.ptp([y for y, _ in row]) < 1
    for column in zip(*centres, strict=True):
        assert column[0][0] < column[1][0]


@pytest.mark.parametrize(
    ("rows", "columns", "size"), [(9, 6, (300, 1100)), (1, 40, (200, 200)), (60, 1, (200, 200)), (3, 2, (5000, 10)), (2, 500, (90, 90))]
)
def test_no_side_of_a_sheet_is_longer_than_allowed(rows, columns, size):
    cell = np.zeros((*size, 3), np.uint8)
    picture = sheet([(f"epoch {r}", [cell] * columns) for r in range(rows)], columns=["case"] * columns, label_map=label_map(), max_side=2000)
    assert max(picture.shape) <= 2000
    assert (picture == 0).all(-1).any()


def test_a_missing_picture_leaves_its_cell_empty():
    cell = np.zeros((50, 50, 3), np.uint8)
    whole, partly = (sheet([("1", [cell, cell]), ("2", [cell, last])], columns=["a", "b"]) for last in (cell, None))
    assert whole.shape == partly.shape
    assert (partly == 0).all(-1).sum() == pytest.approx((whole == 0).all(-1).sum() - 2500, abs=20)


def test_a_sheet_without_pictures_or_with_a_short_row_is_refused():
    with pytest.raises(ValueError, match="one picture at least"):
        sheet([("epoch 1", [None])], columns=["a"])
    with pytest.raises(ValueError, match="every row needs 2 pictures"):
        sheet([("epoch 1", [np.zeros((5, 5, 3), np.uint8)])], columns=["a", "b"])


def test_a_png_is_written_whole_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "epoch_0001" / "a.png"
    for value in (3, 4):
        assert save_png(path, np.full((5, 6, 3), value, np.uint8)) == path
    assert (np.asarray(Image.open(path)) == 4).all()
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_a_long_text_keeps_both_its_ends():
    short = shorten("slide_0123456789_tile_0042   Dice 0.913", 150, font(12))
    assert short.startswith("slide") and short.endswith("0.913") and "…" in short
    assert font(12).getlength(short) <= 150


def test_no_legend_row_is_wider_than_allowed():
    rows = legend_rows([((0, 0, 0), f"class number {i}") for i in range(30)] + [((0, 0, 0), "x" * 200)], 300, 12)
    assert sum(map(len, rows)) == 31
    assert all(sum(12 + 6 + font(12).getlength(name) for _, name in row) <= 300 for row in rows)
