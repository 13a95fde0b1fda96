"""Converts a folder of volumes, or of array masks, to a folder of 2-D slices as PNG.

    slice_folder(source, target, Volumes(axis=0, window=(-160, 240)), max_pixels=150_000_000)
    # target/images/case_01_0012.png, target/masks/case_01_0012.png, target/groups.csv

NIfTI and MetaImage volumes are reoriented to LPS; image and mask must have the same position. Every slice is a case. Its group is the volume, or the
group of the volume where groups are known. Values are mapped to 8 bits through one window for a volume or one for each slice. A 2-D array is one case
and keeps its name.
"""

import csv
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Unpack

import cv2
import gin
import numpy as np

from flexseg.errors import UserError
from flexseg.files.arrays import Volume, apart, array_ending, read_array
from flexseg.files.cases import Case, Patterns, discover
from flexseg.files.images import read_mask, read_pixels

COLUMNS = ("image", "group", "volume", "slice")


@gin.configurable("volumes")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Volumes:
    """How volumes become slices: the bindings `volumes.*`.

    Attributes:
      axis: axis of [z, y, x] that is sliced; 0 gives axial slices.
      orientation: "LPS": volumes with an affine are reoriented, and a mask more than a tenth of a voxel away from its image is an error; "stored":
        axes in the file's order, headers are not compared.
      rotation: rotation of every slice, counter-clockwise in degrees: 0, 90, 180 or 270.
      window: (low, high), mapped to 0 and 255; None: computed from the percentiles.
      percentiles: (low, high) percentiles of the values, used where there is no window.
      window_of: compute percentiles of the whole "volume" or of each "slice".
      keep_empty: keep slices whose mask is 0 everywhere.
      key: name of the array in .npz and .h5 files; default `mask`, `image`, or the only array.
    """

    axis: Literal[0, 1, 2] = 0
    orientation: Literal["LPS", "stored"] = "LPS"
    rotation: Literal[0, 90, 180, 270] = 0
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (0.0, 100.0)
    window_of: Literal["volume", "slice"] = "volume"
    keep_empty: bool = True
    key: str | None = None

    def __post_init__(self) -> None:
        if self.window is not None and not (len(self.window) == 2 and self.window[0] < self.window[1]):
            raise UserError("volumes.window", expected="(low, high)", found=repr(self.window))
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise UserError("volumes.percentiles", expected="(low, high) from 0 to 100", found=repr(self.percentiles))


def holds_arrays(source: Path) -> bool:
    """Whether an images/ or masks/ folder of a source holds array files."""
    folders = [folder for kind in ("images", "masks") for folder in (source / kind, *source.glob(f"*/{kind}")) if folder.is_dir()]
    return any(array_ending(path) for folder in folders for path in folder.iterdir())


def pictures_of(
    source: Path,
    patterns: Patterns,
    *,
    keep: list[object],
    warn: Callable[[str], None],
    progress: Callable[[int, int], None] | None,
    max_pixels: int,
) -> tuple[Path, Patterns]:
    """Returns `source`, or, where it holds array files, a temporary folder of its slices, which exists as long as `keep`.

    Returns:
      (folder, patterns that `discover` still needs: none for slices).

    Raises:
      UserError: see slice_folder.
    """
    if not holds_arrays(source):
        return source, patterns
    folder = tempfile.TemporaryDirectory(prefix="flexseg_")
    keep.append(folder)
    for sentence in slice_folder(source, Path(folder.name), Volumes(), progress=progress, max_pixels=max_pixels, **patterns):
        warn(sentence)
    return Path(folder.name), {}


def slice_folder(
    source: Path,
    target: Path,
    settings: Volumes,
    *,
    progress: Callable[[int, int], None] | None = None,
    max_pixels: int,
    **patterns: Unpack[Patterns],
) -> list[str]:
    """Writes the slices of all volumes of `source`, in the same layout, with groups.csv.

    Args:
      source: a source folder, see `discover`.
      target: a folder, which is made.
      settings: how volumes become slices.
      progress: called with (volumes done, all).
      max_pixels: limit on the pixels of an image, checked before decoding.
      **patterns: `image_pattern`, `mask_pattern`, `group_pattern`, `group_column` of `discover`.

    Returns:
      Warnings, one sentence each.

    Raises:
      UserError: files do not pair or cannot be read, or image and mask differ in shape or position.
    """
    found = discover(source, arrays=True, **patterns)
    rows, dropped = [], 0
    became: dict[Path, Case] = {}
    for number, case in enumerate(found.cases):
        images, masks = _pair(case, settings, max_pixels)
        if images.shape[:3] != masks.shape[:3]:
            shapes = [f"{' x '.join(map(str, stack.shape[:3]))}" for stack in (images, masks)]
            raise UserError(case.mask, expected=f"the shape of {case.image.name}, {shapes[0]} (slices x height x width)", found=shapes[1])
        images = _windowed(images, settings)
        folder = target / (case.split or "")
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
            if not settings.keep_empty and not mask.any():
                dropped += 1
                continue
            name = f"{case.case_id}_{index:04d}.png" if len(images) > 1 else f"{case.case_id}.png"
            other = became.setdefault(folder / name, case)
            if other is not case:
                twice = f"{name}, also of {other.image}"
                raise UserError(case.image, expected="slices of other names than those of other cases", found=twice, cure="rename the file")
            turns = settings.rotation // 90
            for kind, pixels in (("images", image), ("masks", mask)):
                _write(folder / kind / name, np.rot90(pixels, turns) if len(images) > 1 else pixels)
            rows.append((f"{case.split}/images/{name}" if case.split else f"images/{name}", case.group, case.case_id, index))
        if progress is not None:
            progress(number + 1, len(found.cases))
    if not rows:
        raise UserError(source, expected="slices with a mask that is not 0 everywhere", found="none", cure='--gin_param="volumes.keep_empty=True"')
    with open(target / "groups.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
    notes = [sentence for sentence in found.warnings if not sentence.startswith("no groups are known")]
    if len(notes) < len(found.warnings):
        notes.append(
            "no groups are known: every volume counts as a group of its own. Where a patient has several, name the patient of each in groups.csv "
            "(columns image,group) or with --group_pattern"
        )
    return [*notes, f"{len(found.cases)} volumes became {len(rows)} slices" + (f", {dropped} empty ones left out" if dropped else "")]


def _pair(case: Case, settings: Volumes, max_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask, each [slices, height, width] or [slices, height, width, 3]; the mask is uint8."""
    image, mask = (
        read_array(path, key=settings.key, as_stored=settings.orientation == "stored") if array_ending(path) else read(path, max_pixels=max_pixels)
        for path, read in ((case.image, read_pixels), (case.mask_path, read_mask))
    )
    if isinstance(image, Volume) and isinstance(mask, Volume) and image.values.shape == mask.values.shape and image.affine is not None:
        distance, voxel = apart(image, mask), float(np.linalg.norm(image.affine[:3, :3], axis=0).min())
        if distance > voxel / 10:
            cure = "resample it to the image's grid; or, where the voxels do belong together, --gin_param=\"volumes.orientation='stored'\""
            raise UserError(case.mask, expected=f"the place of {case.image.name}", found=f"headers that lie {distance:.3g} mm apart", cure=cure)
    images, masks = (_stack(found, settings.axis) if isinstance(found, Volume) else found[None] for found in (image, mask))
    return images, _whole_numbers(masks, case.mask_path)


def _stack(volume: Volume, axis: int) -> np.ndarray:
    return np.moveaxis(volume.values, axis, 0) if volume.values.ndim == 3 else volume.values[None]


def _whole_numbers(stack: np.ndarray, path: Path) -> np.ndarray:
    if stack.min() < 0 or stack.max() > 255 or (stack.dtype.kind == "f" and not (stack == np.rint(stack)).all()):
        found = f"values from {stack.min():g} to {stack.max():g}"
        raise UserError(path, expected="mask values that are whole numbers from 0 to 255", found=found, cure="save it with one number for each class")
    return stack.astype(np.uint8)


def _windowed(stack: np.ndarray, settings: Volumes) -> np.ndarray:
    """Maps values to uint8 through the window."""
    if stack.dtype == np.uint8 and settings.window is None and settings.percentiles == (0.0, 100.0):
        return stack
    parts = stack if settings.window_of == "slice" and settings.window is None else stack[None]
    out = []
    for part in parts:
        low, high = settings.window or np.percentile(part, settings.percentiles)
        scaled = (part.astype(np.float32) - np.float32(low)) * np.float32(255 / max(high - low, 1e-12))
        out.append(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
    return np.stack(out) if parts is stack else out[0]


def _write(path: Path, pixels: np.ndarray) -> None:
    written, data = cv2.imencode(".png", np.ascontiguousarray(pixels if pixels.ndim == 2 else pixels[..., ::-1]))
    if not written:
        raise ValueError(f"OpenCV cannot encode {pixels.dtype} {pixels.shape}")
    path.write_bytes(data.tobytes())
