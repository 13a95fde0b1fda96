"""Arrays in files that are no pictures: NIfTI, MetaImage, NumPy and HDF5, with two or three axes.

    volume = read_array("case_01.nii.gz", max_values=2_000_000_000)      # [slices, rows, columns]

Axes come as [z, y, x], whatever the format's own order: a NIfTI or MetaImage volume has its axial slices first. NumPy and HDF5 arrays stay as they
are stored. Values come scaled as the header says. Sizes are read from headers and compared before anything is unpacked; nothing is unpickled.
NIfTI needs nibabel, MetaImage SimpleITK, HDF5 h5py: pip install 'flexseg[medical]'.
"""

import importlib
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from flexseg.errors import UserError

ARRAY_ENDINGS = (".nii.gz", ".nii", ".mha", ".npy", ".npz", ".h5", ".hdf5")
MAX_VALUES = 2_000_000_000


def array_ending(path: Path) -> str:
    """The ending of a file of arrays, in lower case; empty for any other file."""
    return next((ending for ending in ARRAY_ENDINGS if path.name.lower().endswith(ending)), "")


def read_array(path: Path, *, key: str | None = None, max_values: int = MAX_VALUES) -> np.ndarray:
    """The array of a file: [rows, columns] or [slices, rows, columns], any number type.

    Args:
      path: the file.
      key: of the array in .npz and .h5 files that hold several; default `mask` or `image`, or the only one.
      max_values: before anything is unpacked.

    Raises:
      UserError: for a file that cannot be read, holds too much, has other axes, or values that are not finite numbers.
    """
    path = Path(path)
    reader = _READERS[array_ending(path)]
    try:
        array = np.asarray(reader(path, key, max_values))
    except (UserError, MemoryError):
        raise
    except Exception as error:  # the libraries raise what they like on damaged bytes
        found = f"one that cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        raise UserError(path, expected=f"a whole {array_ending(path)} file", found=found, cure="save or copy it again") from error
    while array.ndim > 3 and 1 in (array.shape[0], array.shape[-1]):  # a time or channel of one
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise UserError(path, expected="two or three axes", found=f"the shape {array.shape}")
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        raise UserError(path, expected="finite numbers", found=f"{array.dtype}" + " with NaN or infinity" * (array.dtype.kind == "f"))
    return array


def _library(name: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(path, expected=f"the package {name}", found=str(error), cure="pip install 'flexseg[medical]'") from error


def _refuse_large(path: Path, shape, max_values: int) -> None:
    if math.prod(int(side) for side in shape) > max_values:
        raise UserError(path, expected=f"at most {max_values} values", found=f"the shape {tuple(shape)}", cure="cut it into parts")


def _nifti(path: Path, _: str | None, max_values: int) -> np.ndarray:
    image = _library("nibabel", path).load(path)
    _refuse_large(path, image.shape, max_values)
    return np.asanyarray(image.dataobj).T  # stored as x, y, z


def _metaimage(path: Path, _: str | None, max_values: int) -> np.ndarray:
    sitk = _library("SimpleITK", path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    _refuse_large(path, reader.GetSize(), max_values)
    return sitk.GetArrayFromImage(reader.Execute())


def _numpy(path: Path, _: str | None, max_values: int) -> np.ndarray:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    _refuse_large(path, mapped.shape, max_values)
    return np.array(mapped)


def _numpy_archive(path: Path, key: str | None, max_values: int) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > 8 * max_values:
                found = f"{member.file_size} bytes in {member.filename!r}"
                raise UserError(path, expected=f"at most {max_values} values", found=found, cure="cut it into parts")
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[_chosen(path, arrays.files, key)]


def _hdf5(path: Path, key: str | None, max_values: int) -> np.ndarray:
    h5py = _library("h5py", path)
    with h5py.File(path, "r") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        dataset = file[_chosen(path, names, key)]
        _refuse_large(path, dataset.shape, max_values)
        return dataset[()]


def _chosen(path: Path, names: list[str], key: str | None) -> str:
    wanted = [key] if key else ["mask", "image"]
    found = next((name for name in wanted if name in names), names[0] if len(names) == 1 and not key else None)
    if found is None:
        cure = '--gin_param="volumes.key=\'NAME\'"'
        raise UserError(path, expected=f"an array called {' or '.join(wanted)}", found=", ".join(sorted(names)) or "none", cure=cure)
    return found


_READERS: dict[str, Callable[[Path, str | None, int], np.ndarray]] = {
    ".nii.gz": _nifti, ".nii": _nifti, ".mha": _metaimage, ".npy": _numpy, ".npz": _numpy_archive, ".h5": _hdf5, ".hdf5": _hdf5,
}  # fmt: skip
