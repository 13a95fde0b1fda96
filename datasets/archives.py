"""Archives: a zip file, given or downloaded, as a folder of images.

    archive = unpacked(Path("TNBC_NucleiSegmentation.zip"), flag="--source")
    archive.folder                                   # there as long as `archive` lives
    path = fetch(Download(url=..., bytes=25_232_361, md5="1605…"), Path("data/downloads"))

What an archive says is checked before anything is written: names that lead out of the folder, links, and more bytes than the disk has room for.
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

from flexseg.errors import UserError, first_line

MAX_BYTES = 200 * 2**30  # unpacked
_MAX_FILES = 1_000_000
_SOUND, _AGAIN = "a sound zip file without password", "download or copy it again"


@dataclasses.dataclass(frozen=True)
class Download:
    """A publisher's file.

    Attributes:
      url: where it is.
      bytes: its size.
      md5: of its bytes, hex, as the publisher states it.
    """

    url: str
    bytes: int
    md5: str


class Unpacked:
    """A folder that is removed with this object.

    Attributes:
      folder: what the archive held; where that is one folder, that folder.
    """

    def __init__(self):
        self._place = tempfile.TemporaryDirectory(prefix="flexseg_")
        self.folder = Path(self._place.name)


def unpacked(path: Path, *, flag: str) -> Unpacked:
    """The content of a zip file.

    Args:
      path: the file.
      flag: that named it, for messages.

    Raises:
      UserError: for a file that is no sound zip, or that holds what a set of pictures does not.
    """
    where, held = f"{flag}={path}", Unpacked()
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _refuse_strange(members, where, free=shutil.disk_usage(held.folder).free)
            for member in members:
                target = held.folder / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, open(target, "wb") as stream:
                    shutil.copyfileobj(source, stream)  # checks the sum of the content, and reads no more than the size that was stated
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        raise UserError(where, expected=_SOUND, found=error.strerror or first_line(error), cure=_AGAIN) from error
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(where, expected=_SOUND, found=first_line(error), cure=_AGAIN) from error  # a RuntimeError: it has a password
    inside = [entry for entry in held.folder.iterdir() if entry.name != "__MACOSX"]
    if len(inside) == 1 and inside[0].is_dir():
        held.folder = inside[0]
    return held


def _refuse_strange(members: list[zipfile.ZipInfo], where: str, *, free: int) -> None:
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in member.filename:
            raise UserError(where, expected="names below one folder", found=repr(member.filename), cure="such an archive is not to be trusted")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(where, expected="files and folders", found=f"a link, {member.filename!r}", cure="pack the files themselves")
    every = sum(member.file_size for member in members)
    if every > MAX_BYTES or len(members) > _MAX_FILES:
        cure = "unpack it and give the folder"
        raise UserError(where, expected=f"at most {MAX_BYTES} bytes in {_MAX_FILES} files", found=f"{every} in {len(members)}", cure=cure)
    if every > free:  # nothing unpacks to more than it states, so a small file that states much is caught here too
        cure = f"make room in {tempfile.gettempdir()}, name another folder with TMPDIR=, or unpack it and give the folder"
        raise UserError(where, expected=f"at most the {free} bytes that are free where it is unpacked", found=str(every), cure=cure)
    if not members:
        raise UserError(where, expected="files in it", found="none")


def fetch(download: Download, folder: Path) -> Path:
    """The file, downloaded by TFDS into `folder` unless it is there, and checked.

    Raises:
      UserError: when it cannot be downloaded, or is not what the publisher states.
    """
    cure = f"download {download.url} yourself and give it: --source=FILE.zip"
    try:
        manager = tfds.download.DownloadManager(download_dir=str(folder), force_checksums_validation=False, verify_ssl=True)
        path = Path(manager.download(download.url))
    except Exception as error:  # requests, urllib3 and TFDS have some dozen
        raise UserError(download.url, expected="a file that can be downloaded", found=first_line(error), cure=cure) from error
    with open(path, "rb") as stream:
        md5 = hashlib.file_digest(stream, "md5").hexdigest()
    if (path.stat().st_size, md5) != (download.bytes, download.md5):
        found = f"{path.stat().st_size} bytes, md5 {md5}"
        path.unlink()
        raise UserError(download.url, expected=f"{download.bytes} bytes, md5 {download.md5}", found=found, cure=cure)
    return path
