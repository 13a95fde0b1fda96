"""Reads the header of an image file, without decoding pixels.

    header = read_header("images/a.png", max_pixels=150_000_000)
    header.height, header.width, header.channels, header.needs_conversion

The format is detected by the first bytes of the file, never by its name. A valid header does not prove that the pixels can be decoded:
`images.stored_bytes` does.

The pixel count is compared with the caller's limit. Pillow's limit is global to the process; the plugin classes, called directly, ignore it. PNG
chunks are read here, because Pillow decodes the whole image to find the EXIF data of a PNG. TIFF tags are read here, because Pillow cannot open
several float layouts.
"""

import dataclasses
import errno
import os
import struct
from typing import BinaryIO, Literal

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from flexseg.errors import UserError

MAX_PIXELS = 150_000_000
PATH_ERRORS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)  # mistakes of the user; a failing disk is none
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_ORIENTATION = 274  # the same tag in EXIF and TIFF
_COLOR_MODELS = {"1": "grey", "L": "grey", "P": "palette", "RGB": "rgb", "RGBA": "rgb", "CMYK": "cmyk"}  # of Pillow's BMP and JPEG modes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """The properties of an image file.

    Attributes:
      format: "PNG", "JPEG", "TIFF" or "BMP".
      height, width: pixels, after the EXIF orientation is applied.
      channels: 1 or 3, without alpha; a palette and CMYK count as 3.
      bits: bits per channel in the file.
      mode: "grey", "rgb", "palette" or "cmyk".
      has_alpha: whether there is transparency (which flexseg drops).
      exif_turn: EXIF orientation, 1 (upright) to 8.
    """

    format: str
    height: int
    width: int
    channels: Literal[1, 3]
    bits: int
    mode: str
    has_alpha: bool
    exif_turn: int

    @property
    def palette(self) -> bool:
        """Whether pixels are palette indices."""
        return self.mode == "palette"

    @property
    def needs_window(self) -> bool:
        """Whether values of more than 8 bits must be mapped to 0..255. False for CMYK, whose range is fixed."""
        return self.bits > 8 and self.mode != "cmyk"

    @property
    def needs_conversion(self) -> bool:
        """False for upright 8-bit grayscale or RGB PNG and JPEG without alpha, which `tf.io` decodes to the same pixels as Pillow."""
        plain = self.format in ("PNG", "JPEG") and self.bits == 8 and self.mode in ("grey", "rgb")
        return not plain or self.has_alpha or self.exif_turn != 1


def read_header(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Reads the header of a file.

    Raises:
      UserError: no such file, no PNG, JPEG, TIFF or BMP, an unreadable header, more than `max_pixels` pixels, several pages, more than 4 channels.
    """
    try:
        with open(path, "rb") as stream:
            return header_of(stream, path, max_pixels=max_pixels)
    except PATH_ERRORS as error:
        raise unreadable(path, error) from error


def header_of(stream: BinaryIO, where: object, *, max_pixels: int) -> Header:
    """Like `read_header`, for an open file; errors name `where`."""
    start = stream.read(8)
    kind = next((name for signature, name in _SIGNATURES.items() if start.startswith(signature)), None)
    if kind is None:
        raise UserError(
            where,
            expected="a PNG, JPEG, TIFF or BMP image",
            found=f"a file that starts with {start!r}" if start else "an empty file",
            cure="convert the file, or take it out of the folder",
        )
    stream.seek(0)
    try:
        header = {"PNG": _png, "JPEG": _pillow, "TIFF": _tiff, "BMP": _pillow}[kind](stream, where)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a malformed header may raise anything in a parser
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # of the disk; a position beyond all files is the parser's
            raise
        raise UserError(
            where,
            expected=f"a {kind} image",
            found=f"a header that cannot be read ({error or type(error).__name__})",
            cure="save or copy the file again",
        ) from error
    pixels = header.height * header.width
    if pixels > max_pixels:
        raise UserError(
            where,
            expected=f"at most {max_pixels} pixels",
            found=f"{header.height} x {header.width} = {pixels} pixels",
            cure=f"pass --max_image_pixels={pixels} if this size is meant",
        )
    if pixels == 0:
        raise UserError(where, expected="an image with pixels", found=f"{header.height} x {header.width}")
    return header


def unreadable(where: object, error: OSError) -> UserError:
    """The error for a file that the operating system cannot open."""
    return UserError(where, expected="a readable file", found=error.strerror or str(error))


def _png(stream: BinaryIO, where: object) -> Header:
    """https://www.w3.org/TR/png-3/: 8 bytes signature, then chunks of length, type, data, checksum; IHDR is the first."""
    stream.seek(8)
    fields, has_alpha, turn = None, False, 1
    while len(lead := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", lead)
        if fields is None:
            if kind != b"IHDR":
                raise ValueError("no IHDR chunk")
            width, height, bits, color_type = fields = struct.unpack(">IIBBxxx", stream.read(13))
            stream.seek(-13, os.SEEK_CUR)
        elif kind == b"tRNS":
            has_alpha = True
        elif kind == b"acTL":
            raise _pages(where)
        elif kind == b"eXIf":
            turn = _exif_turn(stream.read(length))
            stream.seek(-length, os.SEEK_CUR)
        elif kind == b"IEND":
            break
        stream.seek(length + 4, os.SEEK_CUR)
    if fields is None:
        raise ValueError("it ends before the first chunk")
    mode = {0: "grey", 2: "rgb", 3: "palette", 4: "grey", 6: "rgb"}[color_type]
    return _header("PNG", height=height, width=width, bits=bits, mode=mode, has_alpha=has_alpha or color_type in (4, 6), turn=turn)


def _exif_turn(data: bytes) -> int:
    exif = Image.Exif()
    try:
        exif.load(data)
        return exif.get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data is ignored, as in every decoder
        return 1


def _pillow(stream: BinaryIO, where: object) -> Header:
    start = stream.read(2)
    stream.seek(0)
    image: BmpImageFile | JpegImageFile
    if start == b"BM":
        image, turn = BmpImageFile(stream), 1
    else:
        image = JpegImageFile(stream)
        turn = _exif_turn(image.info.get("exif", b""))
    mode = _COLOR_MODELS[image.mode]
    return _header(
        image.format, height=image.height, width=image.width, bits=1 if image.mode == "1" else 8, mode=mode, has_alpha=image.mode == "RGBA", turn=turn
    )


def _tiff(stream: BinaryIO, where: object) -> Header:
    """TIFF 6.0, https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf"""
    start = stream.read(8)
    tags = ImageFileDirectory_v2(start + (stream.read(8) if start[2:3] == b"+" or start[3:4] == b"+" else b""))
    stream.seek(tags.next)
    tags.load(stream)
    if tags.next:
        raise _pages(where)
    samples, photometric, extra = tags.get(277, 1), tags.get(262, 1), tags.get(338, ())
    bits, sample_format, planar = max(tags.get(258, (1,))), tags.get(339, (1,))[0], tags.get(284, 1)
    if samples > 4 + (photometric == 5):
        raise UserError(where, expected="at most 4 channels", found=f"{samples} channels", cure="save the channels to be used as a grey or RGB image")
    # OpenCV silently decodes these layouts to wrong pixels (separate planes, unlabelled channels, white is zero); Pillow reads int8 as uint8.
    plain = planar == 1 and ((photometric == 1 and samples == 1) or (photometric == 2 and samples in (3, 4)))
    if (bits > 8 and not plain and photometric != 5) or (bits <= 8 and sample_format != 1):
        raise UserError(
            where,
            expected="8-bit unsigned samples, or one grey channel or interleaved RGB of more bits",
            found=f"{samples} channels of {bits} bits (photometric {photometric}, planes {planar}, sample format {sample_format})",
            cure="save the image as PNG, or as plain grey or RGB TIFF",
        )
    mode = {0: "grey", 1: "grey", 2: "rgb", 3: "palette", 5: "cmyk", 6: "rgb"}.get(photometric)
    if mode is None:
        raise UserError(where, expected="a grey, RGB, palette or CMYK TIFF", found=f"photometric interpretation {photometric}", cure="save it as RGB")
    return _header(
        "TIFF",
        height=tags[257],
        width=tags[256],
        bits=bits,
        mode=mode,
        turn=tags.get(_ORIENTATION, 1),
        has_alpha=bool(extra) or samples == 4 and mode == "rgb",
    )


def _pages(where: object) -> UserError:
    return UserError(where, expected="one image in a file", found="several pages or frames", cure="save every page as an image of its own")


def _header(kind: str, *, height: int, width: int, bits: int, mode: str, has_alpha: bool, turn: int) -> Header:
    turn = turn if turn in range(1, 9) else 1
    if turn >= 5:  # these four swap the axes
        height, width = width, height
    return Header(
        format=kind, height=height, width=width, channels=1 if mode == "grey" else 3, bits=bits, mode=mode, has_alpha=has_alpha, exif_turn=turn
    )
