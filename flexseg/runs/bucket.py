"""Bucket: the files below one prefix of an object store, gs:// or s3://.

    bucket = Bucket("gs://lab/runs/my_run", flag="--workdir")
    bucket.files()                                   # {"config.gin": "…", "best/model.npz": "…"}: name -> version
    bucket.upload(Path("here/config.gin"), "config.gin")

Uses fsspec with gcsfs and s3fs (`pip install 'flexseg[remote]'`), as TFDS does. They find credentials, endpoints and proxies: `gcloud auth
application-default login`, `aws configure`, the service account of a cluster, AWS_ENDPOINT_URL for other makers' s3://. An upload appears whole or
not at all.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from flexseg.errors import UserError, first_line

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)


def is_bucket(path: object) -> bool:
    """Whether a path is the address of a bucket."""
    return "://" in str(path)


class Bucket:
    """A prefix in a bucket.

    Args:
      url: `gs://bucket/prefix` or `s3://bucket/prefix`.
      flag: names it in errors.

    Raises:
      UserError: another kind of address, a missing package, or, from any method, a refusal of the store.
      OSError: from any method, when the local disk is full or fails.
    """

    def __init__(self, url: str, *, flag: str):
        self.url, self._where = url.rstrip("/"), f"{flag}={url}"
        kind, _, rest = self.url.partition("://")
        if kind not in ("gs", "s3") or not rest.partition("/")[2]:
            raise UserError(self._where, expected="a folder here, gs://bucket/folder or s3://bucket/folder", found="another address")
        # Else gcsfs asks for the kind of bucket, for which many service accounts have no right, and warns.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        import fsspec  # only runs in buckets need it

        with self._errors():
            self._store = fsspec.filesystem(kind, use_listings_cache=False)
        self._prefix = rest

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns the exceptions of the libraries into one-line errors."""
        try:
            yield
        except UserError:
            raise
        except ImportError as error:
            raise UserError(self._where, expected="the packages for buckets", found=str(error), cure="pip install 'flexseg[remote]'") from error
        except Exception as error:
            # The words are the kernel's for this machine's disk only: s3fs has EIO, with words of its own, for whatever it does not know.
            if isinstance(error, OSError) and error.errno in _DISK_ERRORS and error.strerror == os.strerror(error.errno):
                raise
            found = f"{type(error).__name__}: {first_line(error)}"
            cure = "check its name, the credentials and the network"
            raise UserError(self._where, expected="a bucket that answers", found=found, cure=cure) from error

    def _key(self, name: str) -> str:
        if not name or ".." in PurePosixPath(name).parts or name.startswith("/"):
            raise UserError(self._where, expected="names of files below it", found=repr(name))
        return f"{self._prefix}/{name}"

    def files(self) -> dict[str, str]:
        """{name: version}; the version is everything that the store says about a file."""
        with self._errors():
            found = self._store.find(self._prefix, detail=True)
        return {key.removeprefix(f"{self._prefix}/"): str(facts) for key, facts in found.items() if not key.endswith("/")}

    def download(self, name: str, to: Path) -> None:
        """Downloads one file to `to`, whose folder is made.

        Raises:
          FileNotFoundError: there is no such file.
        """
        key, gone = self._key(name), False
        to.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            try:
                self._store.get_file(key, str(to))
            except FileNotFoundError:
                gone = True
        if gone:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.url}/{name}")

    def upload(self, path: Path, name: str, *, moved: Callable[[], None] = lambda: None) -> None:
        """Uploads one file; `moved` is called after each part (fifty megabytes or more)."""
        from fsspec.callbacks import Callback

        with self._errors():
            self._store.put_file(str(path), self._key(name), callback=Callback(hooks={"moved": lambda *_, **__: moved()}))

    def copy(self, name: str, to: str) -> None:
        """Copies a file within the bucket."""
        with self._errors():
            self._store.cp_file(self._key(name), self._key(to))

    def remove(self, names: Iterable[str]) -> None:
        """Removes files; missing ones are ignored."""
        for name in names:
            with self._errors(), contextlib.suppress(FileNotFoundError):
                self._store.rm_file(self._key(name))

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None where it does not exist."""
        with self._errors():
            try:
                return self._store.cat_file(self._key(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Replaces a small file."""
        with self._errors():
            self._store.pipe_file(self._key(name), content)
