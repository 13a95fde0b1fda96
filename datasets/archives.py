"""Unpacks a zip file, given or downloaded, to a temporary folder.

    archive = unpacked(Path("TNBC_NucleiSegmentation.zip"), flag="--source")
    archive.folder                                   # exists as long as `archive`
    path = fetch(Download(url=..., bytes=25_232_361, md5="1605…"), Path("data/downloads"))

Before anything is written, an archive is refused for names outside its folder, links, and more bytes than the disk has free.
"""

import dataclasses
import errno
import hashlib
import lzma
import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import tensorflow_datasets as tfds

from flexseg.errors import UserError, first_line, printable

MAX_BYTES = 200 * 2**30  # unpacked
_MAX_FILES = 1_000_000
_SOUND, _AGAIN = "a sound zip file without password", "download or copy it again"


@dataclasses.dataclass(frozen=True)
class Download:
    """A file of a publisher.

    Attributes:
      url: its address.
      bytes: its size.
      md5: its MD5, hex, as published.
    """

    url: str
    bytes: int
    md5: str


class Unpacked:
    """A temporary folder, removed with this object.

    Attributes:
      folder: the content of the archive; if that is a single folder, that folder.
    """

    def __init__(self):
        self._place = tempfile.TemporaryDirectory(prefix="flexseg_")
        self.folder = Path(self._place.name)


def unpacked(path: Path, *, flag: str) -> Unpacked:
    """Unpacks a zip file.

    Args:
      path: the file.
      flag: the flag that gave the file, for errors.

    Raises:
      UserError: the file is no valid zip, or has unsafe or too many members.
    """
    where, held = f"{flag}={path}", Unpacked()
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.filename.endswith("/")]
            _refuse_strange(members, where, free=shutil.disk_usage(held.folder).free)
            for member in members:
                target = held.folder / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, open(target, "wb") as stream:
                    shutil.copyfileobj(source, stream)  # verifies the CRC and reads no more than the declared size
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        raise UserError(where, expected=_SOUND, found=error.strerror or first_line(error), cure=_AGAIN) from error
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(where, expected=_SOUND, found=first_line(error), cure=_AGAIN) from error  # RuntimeError: it needs a password
    inside = [entry for entry in held.folder.iterdir() if entry.name != "__MACOSX"]
    if len(inside) == 1 and inside[0].is_dir():
        held.folder = inside[0]
    return held


def _refuse_strange(members: list[zipfile.ZipInfo], where: str, *, free: int) -> None:
    seen: set[PurePosixPath] = set()
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if not member.filename or name.is_absolute() or ".." in name.parts or ":" in member.filename:
            raise UserError(where, expected="names below one folder", found=repr(member.filename), cure="such an archive is not to be trusted")
        if printable(member.filename) != member.filename:
            raise UserError(where, expected="names without control characters", found=repr(member.filename), cure="pack the files under other names")
        if name in seen:
            raise UserError(where, expected="every file once", found=f"{member.filename!r} twice", cure="such an archive is not to be trusted")
        seen.add(name)
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(where, expected="files and folders", found=f"a link, {member.filename!r}", cure="pack the files themselves")
    every = sum(member.file_size for member in members)
    if every > MAX_BYTES or len(members) > _MAX_FILES:
        cure = "unpack it and give the folder"
        raise UserError(where, expected=f"at most {MAX_BYTES} bytes in {_MAX_FILES} files", found=f"{every} in {len(members)}", cure=cure)
    if every > free:  # members cannot exceed their declared size, so this refuses zip bombs too
        cure = f"make room in {tempfile.gettempdir()}, name another folder with TMPDIR=, or unpack it and give the folder"
        raise UserError(where, expected=f"at most the {free} bytes that are free where it is unpacked", found=str(every), cure=cure)
    if not members:
        raise UserError(where, expected="files in it", found="none")


def fetch(download: Download, folder: Path) -> Path:
    """Downloads a file with TFDS, unless `folder` has it, and verifies size and MD5.

    Raises:
      UserError: the download fails, or size or MD5 differ.
    """
    cure = f"download {download.url} yourself and give it: --source=FILE.zip"
    try:
        manager = tfds.download.DownloadManager(download_dir=str(folder), force_checksums_validation=False, verify_ssl=True)
        path = Path(manager.download(download.url))
    except Exception as error:  # requests, urllib3 and TFDS raise about a dozen types
        raise UserError(download.url, expected="a file that can be downloaded", found=first_line(error), cure=cure) from error
    with open(path, "rb") as stream:
        md5 = hashlib.file_digest(stream, "md5").hexdigest()
    if (path.stat().st_size, md5) != (download.bytes, download.md5):
        found = f"{path.stat().st_size} bytes, md5 {md5}"
        path.unlink()
        raise UserError(download.url, expected=f"{download.bytes} bytes, md5 {download.md5}", found=found, cure=cure)
    return path
