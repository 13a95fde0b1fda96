"""Reading image and mask files: every format, depth and channel count, and every kind of file that must be refused."""

import io
import itertools
import struct
import tracemalloc
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, TiffImagePlugin

from flexseg.errors import UserError
from flexseg.files.images import IMAGE_SUFFIXES, read_header, read_image, read_mask, stored_bytes, value_range

HEIGHT, WIDTH = 31, 45


def picture(channels, dtype=np.uint8, seed=0):
    shape = (HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, channels)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)


def write(path, pixels):
    """With OpenCV, whatever the depth; pixels are RGB or RGBA."""
    order = {1: slice(None), 3: [2, 1, 0], 4: [2, 1, 0, 3]}[1 if pixels.ndim == 2 else pixels.shape[2]]
    assert cv2.imwrite(str(path), pixels if pixels.ndim == 2 else pixels[..., order])
    return path


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(path, kind, data):
    """A PNG with a chunk more, after IHDR."""
    old = path.read_bytes()
    path.write_bytes(old[:33] + chunk(kind, data) + old[33:])
    return path


def refusal(call, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return caught.value


def of_shape(pixels, channels):
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], channels))


@pytest.mark.parametrize(
    "suffix, channels, bits",
    [
        (suffix, channels, bits)
        for suffix, channels, bits in itertools.product(("png", "jpg", "tif", "bmp"), (1, 3, 4), (8, 16))
        if bits == 8 or suffix in ("png", "tif")
        if channels < 4 or suffix != "jpg"
    ],
)
def test_every_format_depth_and_channel_count_keeps_its_pixels(tmp_path, suffix, channels, bits):
    pixels = picture(channels, np.uint8 if bits == 8 else np.uint16)
    path = write(tmp_path / f"a.{suffix}", pixels)
    assert path.suffix in IMAGE_SUFFIXES
    header = read_header(path)
    colors = 1 if channels == 1 else 3
    # BMP files of OpenCV hold four channels without saying that the fourth is alpha.
    assert (header.height, header.width, header.channels, header.bits) == (HEIGHT, WIDTH, colors, bits)
    assert header.has_alpha == (channels == 4) or suffix == "bmp"
    plain = suffix in ("png", "jpg") and bits == 8 and channels < 4
    assert header.needs_conversion is not plain and header.needs_window is (bits == 16)

    window = (0, 65535) if bits == 16 else None
    stored = stored_bytes(path, channels=colors, window=window)
    assert stored.converted is not plain and (stored.height, stored.width) == (HEIGHT, WIDTH)
    if plain:
        assert stored.data == path.read_bytes()
    else:
        assert stored.data.startswith(b"\x89PNG")
    # An independent decoder of what is stored: 8 bits, as many channels as colours.
    decoded = cv2.imdecode(np.frombuffer(stored.data, np.uint8), cv2.IMREAD_UNCHANGED)
    decoded = decoded if decoded.ndim == 2 else decoded[..., ::-1]
    expected = pixels if bits == 8 else np.rint(pixels / 257).astype(np.uint8)
    expected = of_shape(expected, colors)
    if suffix != "jpg":
        np.testing.assert_array_equal(of_shape(decoded, colors), expected)
        np.testing.assert_array_equal(read_image(path, channels=colors, window=window), expected)
    assert decoded.dtype == np.uint8 and decoded.shape[:2] == (HEIGHT, WIDTH)


@pytest.mark.parametrize("suffix, channels", itertools.product(("png", "tif", "bmp"), (1, 3, 4)))
def test_a_mask_keeps_its_values_and_colours_and_loses_its_alpha(tmp_path, suffix, channels):
    pixels = picture(channels)
    np.testing.assert_array_equal(read_mask(write(tmp_path / f"m.{suffix}", pixels)), pixels if channels == 1 else pixels[..., :3])


def test_a_jpeg_is_decoded_as_pillow_decodes_it(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture(3)).save(path, quality=90)
    reference = Image.open(path)
    np.testing.assert_array_equal(read_image(path, channels=3), np.asarray(reference))
    np.testing.assert_array_equal(read_mask(path), np.asarray(reference))
    reference = Image.open(path)
    reference.draft("L", None)
    np.testing.assert_array_equal(read_image(path, channels=1)[..., 0], np.asarray(reference))


def test_a_colour_image_in_a_grey_dataset_is_stored_as_it_is_and_grey_when_converted(tmp_path):
    pixels = picture(3)
    png, tif = write(tmp_path / "a.png", pixels), write(tmp_path / "a.tif", pixels)
    assert stored_bytes(png, channels=1, window=None).data == png.read_bytes()
    assert Image.open(io.BytesIO(stored_bytes(tif, channels=1, window=None).data)).mode == "L"
    np.testing.assert_array_equal(read_image(png, channels=1), read_image(tif, channels=1))


def test_a_grey_image_in_a_colour_dataset_has_three_equal_channels(tmp_path):
    pixels = picture(1)
    for suffix in ("png", "tif"):
        np.testing.assert_array_equal(read_image(write(tmp_path / f"a.{suffix}", pixels), channels=3), of_shape(pixels, 3))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_a_palette_becomes_its_colours(tmp_path, suffix):
    ids = (picture(1) % 5).astype(np.uint8)
    palette = np.array([[60, 16, 152], [132, 41, 246], [110, 193, 228], [254, 221, 58], [226, 169, 41]], np.uint8)
    image = Image.fromarray(ids)
    image.putpalette(palette.tobytes())
    path = tmp_path / f"m.{suffix}"
    image.save(path)
    header = read_header(path)
    assert header.palette and header.channels == 3 and header.needs_conversion
    np.testing.assert_array_equal(read_mask(path), palette[ids])
    np.testing.assert_array_equal(read_image(path, channels=3), palette[ids])


def test_transparency_is_dropped_without_a_warning(tmp_path):
    ids = (picture(1) % 3).astype(np.uint8)
    palette = np.array([[1, 2, 3], [9, 8, 7], [200, 0, 50]], np.uint8)
    image = Image.fromarray(ids)
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "p.png", transparency=bytes([0, 128, 255]))
    color = picture(3)
    with_chunk(write(tmp_path / "c.png", color), b"tRNS", struct.pack(">HHH", *map(int, color[0, 0])))
    Image.fromarray(np.dstack([picture(1), picture(1, seed=1)]), "LA").save(tmp_path / "la.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, expected in (("p", palette[ids]), ("c", color), ("la", picture(1))):
            path = tmp_path / f"{name}.png"
            assert read_header(path).has_alpha and stored_bytes(path, channels=3, window=None).converted
            np.testing.assert_array_equal(read_mask(path), expected)


def test_16_bit_grey_with_alpha_keeps_its_grey(tmp_path):
    values = picture(2, np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path = tmp_path / "la16.png"
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 4, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    assert value_range(path) == (values[..., 0].min(), values[..., 0].max())


def test_bilevel_becomes_0_and_255(tmp_path):
    bits = picture(1) > 127
    for suffix in ("png", "tif", "bmp"):
        path = tmp_path / f"m.{suffix}"
        Image.fromarray(bits).save(path)
        assert read_header(path).bits == 1 and read_header(path).needs_conversion
        np.testing.assert_array_equal(read_mask(path), bits * np.uint8(255))
        np.testing.assert_array_equal(read_image(path, channels=1)[..., 0], bits * np.uint8(255))


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.fromarray(picture(3)).convert("CMYK")
    for suffix in ("jpg", "tif"):
        path = tmp_path / f"a.{suffix}"
        image.save(path)
        assert read_header(path).mode == "cmyk" and not read_header(path).needs_window
        np.testing.assert_array_equal(read_image(path, channels=3), np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("turn, kind", itertools.product(range(1, 9), ("jpg", "png", "png16", "tif", "tif16", "tif_lzw")))
def test_an_exif_turn_is_carried_out_once(tmp_path, turn, kind):
    # Smooth, so that JPEG changes little and a wrong turn changes much.
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    upright = (y * 4 + x).astype(np.uint8)
    marked = Image.fromarray(upright)
    marked.getexif()[274] = turn
    expected = np.asarray(ImageOps.exif_transpose(marked))
    path = tmp_path / f"a.{kind[:3]}"
    exif = Image.Exif()
    exif[274] = turn
    if kind == "png16":
        with_chunk(write(path, upright * np.uint16(257)), b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    elif kind.startswith("tif"):
        image = Image.fromarray(upright * np.uint16(257)) if kind == "tif16" else Image.fromarray(upright)
        image.save(path, tiffinfo={274: turn}, compression="tiff_lzw" if kind == "tif_lzw" else None)
    else:
        Image.fromarray(upright).save(path, exif=exif, **({"quality": 100} if kind == "jpg" else {}))
    header = read_header(path)
    assert (header.height, header.width) == expected.shape and header.exif_turn == turn
    assert header.needs_conversion is (turn != 1 or kind not in ("jpg", "png"))
    window = (0, 65535) if kind.endswith("16") else None
    stored = stored_bytes(path, channels=1, window=window)
    assert (stored.height, stored.width) == expected.shape and stored.converted is header.needs_conversion
    actual = read_image(path, channels=1, window=window)[..., 0]
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(int) - expected).max() <= (3 if kind == "jpg" else 0)
    if not window:
        np.testing.assert_array_equal(read_mask(path), actual)


def test_broken_exif_turns_nothing(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture(1)).save(path, exif=b"Exif\0\0nonsense")
    assert read_header(path).exif_turn == 1 and not read_header(path).needs_conversion


def test_a_window_maps_linearly_rounds_and_clips(tmp_path):
    values = np.array([[0, 100, 101, 102, 150, 199, 200, 65535]], np.uint16)
    path = write(tmp_path / "a.tif", values)
    assert value_range(path) == (0, 65535)
    np.testing.assert_array_equal(read_image(path, channels=1, window=(100, 200))[..., 0], [[0, 0, 3, 5, 128, 252, 255, 255]])
    np.testing.assert_array_equal(read_image(path, channels=1, window=(7, 7)), np.zeros((1, 8, 1)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32])
@pytest.mark.parametrize("channels", [1, 3])
def test_float_and_signed_tiffs_go_through_the_window(tmp_path, dtype, channels):
    values = (picture(channels).astype(np.float64) - 128).astype(dtype)
    values[0, 0], values[0, 1] = -128, 127
    path = write(tmp_path / "a.tif", values)
    assert read_header(path).needs_window and value_range(path) == (-128, 127)
    np.testing.assert_array_equal(read_image(path, channels=channels, window=(-128, 127)), of_shape(values + 128, channels).astype(np.uint8))


def test_more_than_8_bits_without_a_window_is_a_callers_mistake(tmp_path):
    with pytest.raises(ValueError, match="window"):
        stored_bytes(write(tmp_path / "a.png", picture(1, np.uint16)), channels=1, window=None)


def test_values_that_are_not_finite_are_refused(tmp_path):
    values = np.ones((4, 4), np.float32)
    values[1, 1], values[2, 2] = np.nan, np.inf
    assert refusal(value_range, write(tmp_path / "a.tif", values)).found.startswith("2 values")


def test_a_16_bit_mask_is_read_when_its_values_fit_and_refused_with_the_value_when_not(tmp_path):
    values = picture(1).astype(np.uint16)
    for suffix in ("png", "tif"):
        mask = read_mask(write(tmp_path / f"m.{suffix}", values))
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, values)
        wrong = values.copy()
        wrong[0, 0] = 300
        assert refusal(read_mask, write(tmp_path / f"w.{suffix}", wrong)).found.startswith("300 and 0 other")
    refusal(read_mask, write(tmp_path / "half.tif", np.full((4, 4), 0.5, np.float32)))


def bomb(path, side):
    """A PNG of `side` x `side` black RGB pixels, compressed far enough to be small."""
    compressor = zlib.compressobj(9)
    row = bytes(1 + side * 3)
    data = b"".join(compressor.compress(row) for _ in range(min(side, 50))) + compressor.flush()
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("reader", [read_header, read_mask, value_range, lambda path: stored_bytes(path, channels=3, window=None)])
def test_20000_by_20000_pixels_are_refused_before_anything_is_decoded(tmp_path, reader, monkeypatch):
    path = bomb(tmp_path / "bomb.png", 20000)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    tracemalloc.start()
    error = refusal(reader, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert "400000000" in error.found and "150000000" in error.expected and "--max_image_pixels=400000000" in error.cure


def test_a_bomb_with_its_turn_is_refused_before_anything_is_decoded(tmp_path):
    # Pillow's own `getexif` decodes a whole PNG to find a turn.
    path = bomb(tmp_path / "bomb.png", 20000)
    with_chunk(path, b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0")
    assert "400000000" in refusal(read_header, path).found


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_our_limit_holds_and_pillows_own_does_not(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(picture(3)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert stored_bytes(path, channels=3, window=None, max_pixels=HEIGHT * WIDTH).height == HEIGHT
    refusal(read_mask, path, max_pixels=HEIGHT * WIDTH - 1)


@pytest.mark.parametrize("suffix, kept", [(s, k) for s in ("png", "jpg", "tif", "bmp", "16.png", "16.tif") for k in (0.02, 0.3, 0.9, 0.999)])
def test_a_truncated_file_is_refused_by_name(tmp_path, suffix, kept):
    path = tmp_path / f"cut.{suffix}"
    if suffix.startswith("16"):
        write(path, picture(3, np.uint16))
    else:
        Image.fromarray(picture(3)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    for call in (read_mask, lambda p: stored_bytes(p, channels=3, window=(0, 65535))):
        assert refusal(call, path).where == str(path)


@pytest.mark.parametrize("missing", [1, 4, 8, 12, 16])
def test_a_png_that_lacks_its_last_bytes_is_refused_though_pillow_reads_it(tmp_path, missing):
    path = write(tmp_path / "cut.png", picture(1))
    path.write_bytes(path.read_bytes()[:-missing])
    Image.open(path).load()
    refusal(stored_bytes, path, channels=1, window=None)


def test_a_flipped_bit_in_a_png_is_refused(tmp_path):
    whole = write(tmp_path / "a.png", picture(1)).read_bytes()
    for place in (20, 45, len(whole) // 2, len(whole) - 14):
        (tmp_path / "bad.png").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        refusal(stored_bytes, tmp_path / "bad.png", channels=1, window=None)


def test_what_is_no_image_is_refused_whatever_its_name(tmp_path):
    for name, data in (
        ("empty.png", b""),
        ("text.png", b"hello, world"),
        ("gif.png", b"GIF89a" + bytes(50)),
        ("half.tif", b"II*\0"),
        ("half.jpg", b"\xff\xd8\xff"),
        ("half.bmp", b"BM"),
        ("half.png", b"\x89PNG\r\n\x1a\n"),
        ("zero.tif", b"II*\0" + bytes(100)),
    ):
        (tmp_path / name).write_bytes(data)
        assert name in refusal(read_header, tmp_path / name).where
    refusal(read_header, tmp_path / "missing.png")
    refusal(read_mask, tmp_path)


def test_the_format_is_told_by_the_bytes(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    Image.fromarray(picture(3)).save(path, "PNG")
    assert read_header(path).format == "PNG"
    np.testing.assert_array_equal(read_image(path, channels=3), picture(3))


def test_pages_frames_and_odd_channels_are_refused_by_name(tmp_path):
    pages = tmp_path / "pages.tif"
    Image.fromarray(picture(1)).save(pages, save_all=True, append_images=[Image.fromarray(picture(1))])
    frames = tmp_path / "frames.png"
    Image.fromarray(picture(1)).save(frames, save_all=True, append_images=[Image.fromarray(picture(1, seed=1))])
    for path in (pages, frames):
        assert "several pages" in refusal(stored_bytes, path, channels=1, window=None).found
    five = tmp_path / "five.tif"
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[256], tags[257], tags[277], tags[258], tags[262] = 4, 4, 5, (8,) * 5, 1
    stream = io.BytesIO()
    stream.write(b"II*\0\x08\0\0\0")
    tags.save(stream)
    five.write_bytes(stream.getvalue())
    assert refusal(read_header, five).found == "5 channels"


@pytest.mark.parametrize("change", [{284: 2}, {262: 1}])
def test_deep_tiffs_that_opencv_would_decode_wrongly_are_refused(tmp_path, change):
    """Separate planes and unlabelled channels: OpenCV 5.0.0 gives pixels for both, the wrong ones."""
    path = write(tmp_path / "a.tif", picture(3, np.uint16))
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    for place in range(start + 2, start + 2 + 12 * entries, 12):
        (tag,) = struct.unpack_from("<H", data, place)
        if tag in change:
            struct.pack_into("<H", data, place + 8, change[tag])
    path.write_bytes(data)
    assert "photometric" in refusal(read_header, path).found
