"""Decodes image and mask files: PNG, JPEG, TIFF, BMP; 1, 3 or 4 channels; 8 and 16 bits, integer and float; palettes; EXIF orientation.

    stored = stored_bytes("a.tif", channels=3, window=(0, 4095))     # 8-bit PNG or JPEG bytes for a TFRecord
    pixels = read_image("a.tif", channels=3, window=(0, 4095))       # the same pixels, uint8 [H, W, 3]
    mask = read_mask("a_mask.png")                                   # uint8 [H, W] values or [H, W, 3] colours

8-bit PNG and JPEG files are stored unchanged, after a full decode has shown that they are complete. All others are converted to 8-bit PNG: alpha is
dropped (not composited), palettes become RGB, the EXIF orientation is applied, values of more than 8 bits are mapped through a window.

Pillow decodes up to 8 bits (to the same pixels as `tf.io`), OpenCV more, because Pillow reduces 16-bit colour to its high byte.
Not promised: a damaged JPEG with intact markers is not detected (no decoder can). With `channels=1`, a colour PNG may differ from `tf.io` by one
grey level, because rounding differs.
"""

import dataclasses
import hashlib
import io
import os
import struct
import zlib
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from flexseg.errors import UserError
from flexseg.files.headers import MAX_PIXELS, PATH_ERRORS, Header, header_of, read_header, unreadable

__all__ = [
    "IMAGE_SUFFIXES", "Storage", "StoredImage", "encoded_as", "read_header", "read_image", "read_mask", "read_pixels", "stored_bytes", "value_range",
]  # fmt: skip

Storage = Literal["as_is", "png", "jpeg", "raw"]
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredImage:
    """The form in which a dataset stores an image.

    Attributes:
      data: a PNG or JPEG file, 8 bits, grayscale or RGB, upright.
      converted: whether `data` differs from the bytes of the source file.
      height, width: pixels.
    """

    data: bytes
    converted: bool
    height: int
    width: int


class _Tiff(TiffImageFile):
    def load_prepare(self) -> None:
        # Pillow would check its global pixel limit here (for other formats it does so in `Image.open`); the header was checked already.
        if self._im is None:
            self.im = Image.core.new(self.mode, self._tile_size)
        super().load_prepare()


_PLUGINS = {"PNG": PngImageFile, "JPEG": JpegImageFile, "TIFF": _Tiff, "BMP": BmpImageFile}


def stored_bytes(
    path: str | os.PathLike, *, channels: Literal[1, 3], window: tuple[float, float] | None, max_pixels: int = MAX_PIXELS, sha256: str = ""
) -> StoredImage:
    """The bytes that a dataset stores for an image.

    Args:
      path: the image file.
      channels: channels of the dataset. A file that needs no conversion keeps its number of channels (the decoder converts it). A file that is
        converted becomes grayscale when `channels` is 1; a grayscale file stays grayscale.
      window: (low, high), mapped linearly to 0 and 255, rounded and clipped. Required for images of more than 8 bits, ignored for others.
      max_pixels: limit on the number of pixels, checked before decoding.
      sha256: the digest, hex, that the file must have; empty for any.

    Raises:
      UserError: `read_header` refuses the file, it does not decode to its end, it holds NaN or infinite values, or it has another digest.
      ValueError: an image of more than 8 bits without a window.
    """
    data, header = _read(path, max_pixels, sha256)
    pixels = _decode(data, header, path)
    if not header.needs_conversion:
        return StoredImage(data=data, converted=False, height=header.height, width=header.width)
    if header.needs_window:
        if window is None:
            raise ValueError(f"{path} has {header.bits} bits: a window (low, high) is needed to map its values to 0..255")
        pixels = _through_window(pixels, *window)
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert("L") if channels == 1 else image).save(buffer, "PNG")
    return StoredImage(data=buffer.getvalue(), converted=True, height=header.height, width=header.width)


def encoded_as(data: bytes, storage: Storage, *, channels: Literal[1, 3]) -> bytes:
    """Re-encodes a PNG or JPEG file.

    `png`; `jpeg`, quality 95 without chroma subsampling, lossy; `raw`, an uncompressed PNG; `as_is`, unchanged. With `channels=1`, RGB becomes
    grayscale.
    """
    if storage == "as_is" or (storage == "png" and data.startswith(b"\x89PNG")):
        return data
    with _PLUGINS["PNG" if data.startswith(b"\x89PNG") else "JPEG"](io.BytesIO(data)) as image:
        pixels = image.convert("L" if channels == 1 or image.mode == "L" else "RGB")
    buffer = io.BytesIO()
    options: dict[str, dict[str, Any]] = {
        "png": {"format": "PNG"},
        "jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
        "raw": {"format": "PNG", "compress_level": 0},
    }
    pixels.save(buffer, **options[storage])
    return buffer.getvalue()


def read_image(
    path: str | os.PathLike, *, channels: Literal[1, 3], window: tuple[float, float] | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """The pixels of `stored_bytes(...)`, uint8 [H, W, channels]; the same arguments and errors."""
    data = stored_bytes(path, channels=channels, window=window, max_pixels=max_pixels).data
    with _PLUGINS["PNG" if data.startswith(b"\x89PNG") else "JPEG"](io.BytesIO(data)) as image:
        mode = "L" if channels == 1 else "RGB"
        image.draft(mode, None)  # grayscale of a JPEG is its luminance channel, as in tf.io
        pixels = np.array(image.convert(mode))
    return pixels.reshape(*pixels.shape[:2], channels)


def read_pixels(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The values of an image, [H, W] or [H, W, 3] (RGB), uint8 or the type of the file; upright, without alpha. Errors as `stored_bytes`."""
    data, header = _read(path, max_pixels)
    return _decode(data, header, path)


def read_mask(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS, sha256: str = "") -> np.ndarray:
    """The values of a mask, uint8 [H, W], or its colours, uint8 [H, W, 3] (RGB and palette files), with the EXIF orientation applied.

    Grayscale of 1, 2 or 4 bits is scaled to 0..255 (1 bit: 0 and 255), as in every viewer. Masks of more than 8 bits must hold integers in 0..255.
    Alpha is dropped. `sha256` is the digest, hex, that the file must have; empty for any.

    Raises:
      UserError: as `stored_bytes`, or values out of that range.
    """
    data, header = _read(path, max_pixels, sha256)
    pixels = _decode(data, header, path)
    if header.needs_window:
        wrong = pixels[(pixels < 0) | (pixels > 255) | (pixels != np.rint(pixels))]
        if wrong.size:
            raise UserError(
                path,
                expected="mask values that are whole numbers from 0 to 255",
                found=f"{wrong.flat[0]} and {wrong.size - 1} other such pixels in a mask of {header.bits} bits",
                cure="save the mask as 8-bit PNG with one value or colour for each class",
            )
        pixels = pixels.astype(np.uint8)
    return pixels


def value_range(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS) -> tuple[float, float]:
    """Minimum and maximum of an image, without alpha, before any window; used to compute a window."""
    pixels = read_pixels(path, max_pixels=max_pixels)
    return float(pixels.min()), float(pixels.max())


def _read(path: str | os.PathLike, max_pixels: int, sha256: str = "") -> tuple[bytes, Header]:
    try:
        with open(path, "rb") as stream:
            header = header_of(stream, path, max_pixels=max_pixels)
            stream.seek(0)
            data = stream.read()
    except PATH_ERRORS as error:
        raise unreadable(path, error) from error
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(
            path,
            expected="the file that was checked",
            found="another one: it changed while it was built",
            cure="build again when nothing writes to the folder",
        )
    return data, header


def _decode(data: bytes, header: Header, path: str | os.PathLike) -> np.ndarray:
    """[H, W] or [H, W, 3] (RGB), upright, without alpha; uint8, or the type of the file where `header.needs_window`."""
    try:
        if header.format == "PNG":
            _check_png(data)
        pixels = _decode_deep(data, header) if header.needs_window else _decode_bytes(data, header)
        if header.format != "TIFF":  # both decoders always apply the orientation of a TIFF, whatever the flags
            pixels = _turned(pixels, header.exif_turn)
        shape = (header.height, header.width) if header.channels == 1 else (header.height, header.width, 3)
        if pixels.shape != shape:
            raise ValueError(f"the header promises {shape}, the decoder gives {pixels.shape}")
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes may raise anything in a decoder
        raise UserError(
            path,
            expected=f"a complete {header.format} image",
            found=f"one that cannot be decoded ({str(error).rstrip('.')})",
            cure="save or copy the file again",
        ) from error
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise UserError(
            path,
            expected="finite values",
            found=f"{int((~np.isfinite(pixels)).sum())} values that are NaN or infinite",
            cure="replace them before building",
        )
    return np.ascontiguousarray(pixels)


def _decode_bytes(data: bytes, header: Header) -> np.ndarray:
    with _PLUGINS[header.format](io.BytesIO(data)) as image:
        image.load()
        image.info.pop("transparency", None)  # else Pillow warns, or converts it to alpha
        return np.array(image.convert("L" if header.mode == "grey" else "RGB"))


def _decode_deep(data: bytes, header: Header) -> np.ndarray:
    log = cv2.utils.logging
    level = log.setLogLevel(log.LOG_LEVEL_SILENT)  # the error is raised below; valid RGBA TIFFs cause warnings too
    try:
        # Only IMREAD_UNCHANGED keeps the bit depth and does not apply the EXIF orientation of a PNG.
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        log.setLogLevel(level)
    if pixels is None:
        raise ValueError("OpenCV gives no image")
    if pixels.ndim == 3:
        pixels = pixels[..., 0] if header.mode == "grey" else pixels[..., 2::-1]  # BGR, BGRA
    return pixels


def _check_png(data: bytes) -> None:
    """Verifies the checksums of all critical chunks: Pillow accepts files that libpng, and therefore TensorFlow, refuses later."""
    position, view = 8, memoryview(data)
    while True:
        if position + 12 > len(data):
            raise ValueError("it ends before its last chunk")
        length, kind = struct.unpack_from(">I4s", view, position)
        end = position + 8 + length
        if end + 4 > len(data):
            raise ValueError(f"it ends within a chunk {kind!r}")
        critical = not kind[0] & 0x20  # its name begins with a capital letter
        if critical and zlib.crc32(view[position + 4 : end]) != struct.unpack_from(">I", view, end)[0]:
            raise ValueError(f"wrong checksum in a chunk {kind!r}")
        if kind == b"IEND":
            return
        position = end + 4


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation (CIPA DC-008, tag 274)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _through_window(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    if high < low:
        raise ValueError(f"window: low <= high expected, got ({low}, {high})")
    if pixels.dtype == np.uint16:  # a lookup table saves a float copy of the image
        return _through_window(np.arange(65536, dtype=np.int32), low, high)[pixels]
    span = high - low or np.inf  # an empty window: all black
    return np.clip(np.rint((pixels.astype(np.float64) - low) * 255 / span), 0, 255).astype(np.uint8)
