"""How an example is brought to the network's size and a prediction back; how bytes become pixels: one decode, one resize."""

import io

import numpy as np
import pytest
import tensorflow as tf
import toys
from PIL import Image

from flexseg.data.fit import fit_example, random_crop
from flexseg.data.images import decode_image, decode_mask, resize_image, resize_mask, resize_values
from flexseg.inference.whole_case import Pad, Resize

SIZES = [(9, 7), (16, 20), (23, 31), (30, 12), (12, 33), (1, 1), (1, 40)]  # smaller, equal, larger than 16 x 20, mixed, reflected more than once


def merged(splitter, probabilities, own_size):
    merger = splitter.merger(own_size)
    merger.aggregate(probabilities)
    return merger.finalize()


def example(size: tuple[int, int], channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A picture whose pixels tell their own place, and a mask of ids 0, 1, 2 (and no 255)."""
    name = str(size)
    image = toys.picture(name, size, channels).reshape(*size, channels)
    return image, (toys.picture(name + "mask", size, 1) % 3)[..., None]


def reflected(image: np.ndarray, size: tuple[int, int], top: int = 0, left: int = 0) -> np.ndarray:
    """The window of `size` whose first pixel is (top, left) of the image, by NumPy's own reflection."""
    before = max(0, -top), max(0, -left)
    after = [max(0, corner + side - own) for corner, side, own in zip((top, left), size, image.shape[:2], strict=True)]
    padded = np.pad(image, (*zip(before, after, strict=True), (0, 0)), mode="reflect")
    return padded[top + before[0] :, left + before[1] :][: size[0], : size[1]]


def png(pixels: np.ndarray) -> bytes:
    return encoded(pixels, "PNG")


def encoded(pixels: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


# Padding


@pytest.mark.parametrize("size", [size for size in SIZES if size[0] <= 16 and size[1] <= 20])
@pytest.mark.parametrize("channels", [1, 3])
def test_padding_reflects_the_image_and_ignores_exactly_what_no_source_pixel_covers(size, channels):
    image, mask = example(size, channels)
    padded_image, padded_mask = (x.numpy() for x in fit_example(image, mask, size=(16, 20), fit="pad"))
    np.testing.assert_array_equal(padded_image, reflected(image, (16, 20)))
    np.testing.assert_array_equal(padded_mask[: size[0], : size[1]], mask)
    covered = np.zeros((16, 20, 1), bool)
    covered[: size[0], : size[1]] = True
    np.testing.assert_array_equal(padded_mask == 255, ~covered)


@pytest.mark.parametrize("size", [(17, 20), (16, 21)])
def test_an_image_that_is_larger_than_the_padded_input_is_refused(size):
    image, mask = example(size)
    with pytest.raises(tf.errors.InvalidArgumentError, match="larger"):
        fit_example(image, mask, size=(16, 20), fit="pad")


@pytest.mark.parametrize("own_size", [(9, 7), (16, 20)])
def test_mapping_back_undoes_padding(own_size):
    image, mask = example(own_size)
    padded, _ = fit_example(image, mask, size=(16, 20), fit="pad")
    back = merged(Pad((16, 20)), tf.cast(padded, tf.float32), own_size)
    np.testing.assert_array_equal(back, image)


# Resizing


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_resized_mask_gets_no_new_ids_and_nothing_is_ignored(size, channels):
    image, mask = example(size, channels)
    resized_image, resized_mask = (x.numpy() for x in fit_example(image, mask, size=(16, 20), fit="resize"))
    assert resized_image.shape == (16, 20, channels) and resized_image.dtype == np.uint8
    assert resized_mask.shape == (16, 20, 1) and resized_mask.dtype == np.uint8
    assert set(np.unique(resized_mask)) <= set(np.unique(mask))


def test_ignored_pixels_stay_ignored_when_resized():
    mask = np.where(np.arange(30) < 15, 255, 1).astype(np.uint8).reshape(1, 30, 1).repeat(20, axis=0)
    resized = resize_mask(mask, (10, 15)).numpy()
    assert set(np.unique(resized)) == {1, 255} and abs(np.mean(resized == 255) - 0.5) < 0.05


def test_resizing_to_the_own_size_changes_nothing():
    image, mask = example((23, 31))
    np.testing.assert_array_equal(resize_image(image, (23, 31)), image)
    np.testing.assert_array_equal(resize_mask(mask, (23, 31)), mask)
    values = image.astype(np.float32) / 7
    np.testing.assert_allclose(merged(Resize((23, 31)), tf.constant(values), (23, 31)), values)


@pytest.mark.parametrize("size", [(20, 26), (40, 52), (37, 90), (80, 104), (13, 200)])
def test_an_image_is_resized_as_pillow_resizes_it(size):
    image = toys.picture("resize", (40, 52))
    expected = np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR), np.int32)
    assert abs(resize_image(image, size).numpy() - expected).max() <= 1


def test_a_resized_mask_lies_where_its_image_lies():
    mask = toys.binary_mask("box", (64, 48))[..., None]
    for size in ((32, 24), (128, 96), (50, 70)):
        image, resized = resize_image(mask, size).numpy(), resize_mask(mask, size).numpy()
        assert np.mean((image >= 128) == (resized == 255)) > 0.98
        assert (resized[image == 255] == 255).all() and (resized[image == 0] == 0).all()


def test_probabilities_mapped_back_stay_probabilities():
    logits = toys.picture("logits", (16, 20)).astype(np.float32) / 50
    probabilities = tf.nn.softmax(logits)
    for own_size in ((23, 31), (9, 7), (16, 20)):
        back = merged(Resize((16, 20)), probabilities, own_size).numpy()
        assert back.shape == (*own_size, 3) and back.dtype == np.float32
        np.testing.assert_allclose(back.sum(-1), 1, atol=1e-5)
        np.testing.assert_array_equal(back, resize_values(probabilities, own_size) if own_size != (16, 20) else probabilities)


# Random crops


def crops(image, mask, count: int, **options):
    settings = {"size": (16, 20), "foreground_probability": 0.0, "background": 0} | options
    crop = tf.function(lambda key: random_crop(tf.constant(image), tf.constant(mask), key=key, **settings))
    return [tuple(x.numpy() for x in crop(tf.constant([7, number], tf.int64))) for number in range(count)]


def place_of(image: np.ndarray, crop: np.ndarray) -> tuple[int, int]:
    """(top, left) of a crop in a larger image, whose pixels are all different enough."""
    size = crop.shape[:2]
    found = [(y, x) for y in range(image.shape[0] - size[0] + 1) for x in range(image.shape[1] - size[1] + 1)
             if (image[y : y + size[0], x : x + size[1]] == crop).all()]  # fmt: skip
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("size", SIZES)
def test_a_crop_is_a_window_reflected_and_ignored_beyond_the_border(size):
    image, mask = example(size)
    for cropped_image, cropped_mask in crops(image, mask, 5):
        # A side that is too short is centred: the odd pixel of padding stands before it. The other side starts anywhere.
        tops, lefts = (range(spare + 1) if (spare := own - side) > 0 else [spare // 2] for own, side in zip(size, (16, 20), strict=True))
        windows = [(top, left) for top in tops for left in lefts if (reflected(image, (16, 20), top, left) == cropped_image).all()]
        assert windows
        rows, columns = np.arange(16)[:, None] + windows[0][0], np.arange(20) + windows[0][1]
        inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
        np.testing.assert_array_equal(cropped_mask[..., 0] == 255, ~inside)
        np.testing.assert_array_equal(cropped_mask[inside][:, 0], mask[rows.clip(0, size[0] - 1), columns.clip(0, size[1] - 1), 0][inside])


def test_an_image_of_the_crops_size_is_taken_whole():
    image, mask = example((16, 20))
    for probability in (0.0, 1.0):
        for cropped_image, cropped_mask in crops(image, mask, 3, foreground_probability=probability):
            np.testing.assert_array_equal(cropped_image, image)
            np.testing.assert_array_equal(cropped_mask, mask)


def test_crops_fall_everywhere_and_are_a_function_of_their_key():
    image, mask = example((19, 24))
    first = crops(image, mask, 200)
    places = {place_of(image, crop) for crop, _ in first}
    assert places == {(y, x) for y in range(4) for x in range(5)}  # 200 draws over 20 places, each missed with probability 4e-5
    assert all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in zip(first, crops(image, mask, 200), strict=True))


@pytest.mark.parametrize("background", [0, None])
@pytest.mark.parametrize("size", [(60, 70), (40, 15), (10, 70), (9, 11)])
def test_a_foreground_crop_is_centred_on_foreground_where_the_border_allows_it(size, background):
    image, _ = example(size)
    mask = np.full((*size, 1), 0 if background == 0 else 255, np.uint8)
    foreground = {(1, 2), (size[0] // 2, size[1] // 2), (size[0] - 1, size[1] - 1)}
    for y, x in foreground:
        mask[y, x] = 1 if background == 0 else 0  # without a background class every pixel that is not ignored is foreground
    seen = set()
    for cropped_image, cropped_mask in crops(image, mask, 40, foreground_probability=1.0, background=background):
        for y, x in foreground:  # the corner that has this pixel in the centre, moved into the image, or centred where the side is short
            corner = [max(0, min(at - side // 2, own - side)) if own >= side else (own - side) // 2
                      for at, side, own in zip((y, x), (16, 20), size, strict=True)]  # fmt: skip
            if (cropped_image == reflected(image, (16, 20), *corner)).all():
                seen.add((y, x))
                assert cropped_mask[y - corner[0], x - corner[1]] == mask[y, x]
                break
        else:
            pytest.fail("the crop is not centred on any foreground pixel")
    distinct = {tuple(max(0, min(at - side // 2, own - side)) for at, side, own in zip(p, (16, 20), size, strict=True)) for p in foreground}
    assert len(seen) == len(distinct)  # every foreground pixel is drawn, not the first alone


def test_a_foreground_crop_of_a_picture_without_foreground_falls_anywhere():
    image, mask = example((30, 40))
    for empty in (np.zeros_like(mask), np.full_like(mask, 255)):
        assert len({place_of(image, crop) for crop, _ in crops(image, empty, 20, foreground_probability=1.0)}) > 10


def test_the_share_of_foreground_crops_is_the_one_asked_for():
    image, mask = example((400, 400), channels=1)
    mask[:], mask[200, 200] = 0, 1
    found = sum((cropped_mask[8, 10] == 1).item() for _, cropped_mask in crops(image, mask, 400, foreground_probability=0.25))
    assert 70 < found < 130  # 100 expected, standard deviation 8.7


# Decoding


FORMATS = [("PNG", {}), ("JPEG", {"quality": 85}), ("JPEG", {"quality": 95, "subsampling": 0}), ("JPEG", {"progressive": True})]


@pytest.mark.parametrize("kind, options", FORMATS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_decoded_to_pillows_pixels(kind, options, channels):
    smooth = np.array(Image.fromarray(toys.picture("jpeg", (9, 12), channels)).resize((101, 67), Image.Resampling.BICUBIC))
    data = encoded(smooth, kind, **options)
    expected = np.array(Image.open(io.BytesIO(data))).reshape(67, 101, channels)
    np.testing.assert_array_equal(decode_image(tf.constant(data), channels=channels), expected)


def test_grey_bytes_in_a_colour_dataset_have_three_equal_channels():
    grey = toys.picture("grey", (11, 13), 1)
    for data in (png(grey), encoded(grey, "JPEG", quality=90)):
        decoded = decode_image(tf.constant(data), channels=3).numpy()
        np.testing.assert_array_equal(decoded, np.array(Image.open(io.BytesIO(data)))[..., None].repeat(3, -1))


def test_a_mask_is_decoded_to_its_ids():
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(decode_mask(tf.constant(png(ids)))[..., 0], ids)
