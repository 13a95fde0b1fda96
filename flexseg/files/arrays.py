"""Reads array files with two or three axes: NIfTI, MetaImage, NumPy and HDF5.

    volume = read_array("case_01_0000.nii.gz")
    volume.values                        # [slices, height, width]
    volume.affine                        # voxel to millimetres; None for NumPy and HDF5
    apart(volume, read_array("case_01_mask.mha"))        # 0.0 mm

NIfTI and MetaImage volumes are reoriented to LPS as [z, y, x]: axial slices from the feet to the head, rows from front to back, columns from the
patient's right to the left, which is the radiological view. NumPy and HDF5 arrays stay as stored. Values are scaled by slope and intercept of the
header. Types and shapes are checked in the header, before values are read. Nothing is unpickled and no reference to another file is followed.
NIfTI needs nibabel, MetaImage needs SimpleITK: pip install 'flexseg[medical]'.
"""

import dataclasses
import importlib
import math
import mmap
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from flexseg.errors import UserError, first_line

ARRAY_ENDINGS = (".nii.gz", ".nii", ".mha", ".npy", ".npz", ".h5", ".hdf5")
MAX_VALUES = 2_000_000_000


@dataclasses.dataclass(frozen=True)
class Volume:
    """The values and the affine matrix of an array file.

    Attributes:
      values: [height, width] or [slices, height, width], any number type.
      affine: float64 [4, 4], maps (column, row, slice, 1) to LPS coordinates in millimetres; None where the format has no affine.
    """

    values: np.ndarray
    affine: np.ndarray | None = None


def array_ending(path: Path) -> str:
    """The extension of an array file, in lower case; empty for any other file."""
    return next((ending for ending in ARRAY_ENDINGS if path.name.lower().endswith(ending)), "")


def read_array(path: Path, *, key: str | None = None, as_stored: bool = False, max_values: int = MAX_VALUES) -> Volume:
    """Reads an array file.

    Args:
      path: the file.
      key: name of the array in an .npz or .h5 file; default `mask`, `image`, or the only array.
      as_stored: keep the axis order of the file and return no affine.
      max_values: limit on the number of values, checked before they are read.

    Raises:
      UserError: the file cannot be read, has too many values, another number of axes, or NaN or infinite values.
    """
    path = Path(path)
    reader = _READERS[array_ending(path)]
    try:
        volume = reader(path, key, as_stored, max_values)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # the libraries raise any exception on damaged bytes
        found = f"one that cannot be read ({first_line(error)})"
        raise UserError(path, expected=f"a whole {array_ending(path)} file", found=found, cure="save or copy it again") from error
    array = volume.values
    while array.ndim > 3 and 1 in (array.shape[0], array.shape[-1]):  # a time or channel axis of length 1
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise UserError(path, expected="two or three axes", found=f"the shape {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(path, expected="finite numbers", found=f"{array.dtype} with NaN or infinity")
    return Volume(array, volume.affine)


def apart(one: Volume, other: Volume) -> float:
    """The largest distance between corresponding corners of two volumes of one shape, in millimetres; 0 where one has no affine."""
    if one.affine is None or other.affine is None or one.values.ndim != 3:
        return 0.0
    ends = np.array(one.values.shape[::-1]) - 1
    corners = np.array([[x, y, z, 1] for x in (0, ends[0]) for y in (0, ends[1]) for z in (0, ends[2])])
    return float(np.linalg.norm((corners @ (one.affine - other.affine).T)[:, :3], axis=1).max())


def _library(name: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(path, expected=f"the package {name}", found=str(error), cure="pip install 'flexseg[medical]'") from error


def _refuse_unread(path: Path, shape: Sequence[int], dtype: np.dtype | None, max_values: int) -> None:
    """Checks type and number of values in the header. A dtype of None is a format of numbers only; they have at most 16 bytes each."""
    if dtype is not None and dtype.kind not in "biuf":
        raise UserError(path, expected="finite numbers", found=f"{dtype}")
    if math.prod(int(side) for side in shape) > max_values:
        raise UserError(path, expected=f"at most {max_values} values", found=f"the shape {tuple(shape)}", cure="cut it into parts")


def _nifti(path: Path, _: str | None, as_stored: bool, max_values: int) -> Volume:
    nibabel = _library("nibabel", path)
    image = nibabel.load(path)
    _refuse_unread(path, image.shape, image.get_data_dtype(), max_values)
    if as_stored or len(image.shape) < 3:
        return Volume(np.asanyarray(image.dataobj).T)  # stored as x, y, z
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt("LPS"))
    image = image.as_reoriented(turn)
    return Volume(np.asanyarray(image.dataobj).T, np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine)  # NIfTI's coordinates are RAS


def _metaimage(path: Path, _: str | None, as_stored: bool, max_values: int) -> Volume:
    sitk = _library("SimpleITK", path)
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # Allowed once in the whole file: MetaIO has rules of its own for lines and for the end of the header.
        places = re.findall(rb"ElementDataFile[ \t]*[=:]?[ \t]*(.*?)\s*$", content, re.MULTILINE)
    if places != [b"LOCAL"]:
        found = " and ".join(place[:100].decode(errors="replace") for place in places[:2]) or "no such line"
        raise UserError(path, expected="one ElementDataFile = LOCAL, its values in the same file", found=found, cure="save it as one .mha file")
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if reader.GetNumberOfComponents() != 1:
        raise UserError(path, expected="one value a voxel", found=f"{reader.GetNumberOfComponents()}", cure="save one of them")
    _refuse_unread(path, reader.GetSize(), None, max_values)
    image = reader.Execute()
    while image.GetDimension() > 3 and image.GetSize()[-1] == 1:  # a time axis of length 1, which cannot be reoriented
        image = image[..., 0]
    if as_stored or image.GetDimension() != 3:
        return Volume(sitk.GetArrayFromImage(image))
    image = sitk.DICOMOrient(image, "LPS")
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image), affine)


def _numpy(path: Path, _: str | None, __: bool, max_values: int) -> Volume:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    _refuse_unread(path, mapped.shape, mapped.dtype, max_values)
    return Volume(np.array(mapped))


def _numpy_archive(path: Path, key: str | None, _: bool, max_values: int) -> Volume:
    headers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    with zipfile.ZipFile(path) as archive:
        name = _chosen(path, [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")], key)
        with archive.open(f"{name}.npy") as stream:
            shape, _, dtype = headers[np.lib.format.read_magic(stream)[0]](stream)
            _refuse_unread(path, shape, dtype, max_values)
            if math.prod(shape) * dtype.itemsize > archive.getinfo(f"{name}.npy").file_size:
                raise EOFError(f"{name} is shorter than its shape {shape}")  # else NumPy allocates the whole shape first
            stream.seek(0)
            return Volume(np.lib.format.read_array(stream, allow_pickle=False))  # np.load may read another member


def _hdf5(path: Path, key: str | None, _: bool, max_values: int) -> Volume:
    import h5py

    with h5py.File(path, "r") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)  # does not follow links into other files
        name = _chosen(path, names, key)
        dataset = file[name]
        if dataset.is_virtual or dataset.external:
            raise UserError(path, expected="values in the same file", found=f"{name} refers to other files", cure="save it as one file")
        _refuse_unread(path, dataset.shape, dataset.dtype, max_values)
        if not dataset.id.get_storage_size():  # HDF5 would return the fill value in the whole shape
            raise UserError(path, expected="values", found=f"{name} without any", cure="save it again")
        return Volume(np.asarray(dataset[()]))


def _chosen(path: Path, names: list[str], key: str | None) -> str:
    wanted = [key] if key else ["mask", "image"]
    found = next((name for name in wanted if name in names), names[0] if len(names) == 1 and not key else None)
    if found is None:
        cure = "--gin_param=\"volumes.key='NAME'\""
        raise UserError(path, expected=f"an array called {' or '.join(wanted)}", found=", ".join(sorted(names)) or "none", cure=cure)
    return found


_READERS: dict[str, Callable[[Path, str | None, bool, int], Volume]] = {
    ".nii.gz": _nifti, ".nii": _nifti, ".mha": _metaimage, ".npy": _numpy, ".npz": _numpy_archive, ".h5": _hdf5, ".hdf5": _hdf5,
}  # fmt: skip
