"""Geometric and colour transforms of `flexseg derive`: coordinate maps in NumPy, sampled with OpenCV.

    y, x = barrel_map((512, 512), center=(0.5, 0.5), radius=0.3, amount=0.3)
    image, mask = warp_image(image, y, x), warp_mask(mask, y, x)       # one map for image and mask

A map gives the source coordinates of every output pixel, float32 [H, W] each for y and x; pixel centres are integers. Beyond the border, image and
mask are reflected about the outermost pixels. The formulas are those of the reference system's generators. `flexseg/data/distortions.py` has them as
TensorFlow functions for augmentation in training; a test compares the two.
"""

from collections.abc import Sequence

import cv2
import numpy as np

Map = tuple[np.ndarray, np.ndarray]


def identity_map(size: tuple[int, int]) -> Map:
    """The identity map."""
    return np.meshgrid(np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32), indexing="ij")


def affine_map(size: tuple[int, int], *, rotation_degrees: float = 0.0, scale_factor: float = 1.0, shear_y: float = 0.0, shear_x: float = 0.0) -> Map:
    """Shear, scale and counter-clockwise rotation about the centre, as seen in the output; see `affine_matrix` in `flexseg/data/geometry.py`."""
    angle = np.deg2rad(rotation_degrees)
    turn_back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    back = np.array([[1.0, -shear_y], [-shear_x, 1.0]]) / (1.0 - shear_y * shear_x) @ turn_back / scale_factor
    centre = [(length - 1) / 2 for length in size]
    y, x = identity_map(size)
    dy, dx = y - np.float32(centre[0]), x - np.float32(centre[1])
    back = back.astype(np.float32)
    return back[0, 0] * dy + back[0, 1] * dx + np.float32(centre[0]), back[1, 0] * dy + back[1, 1] * dx + np.float32(centre[1])


def elastic_map(size: tuple[int, int], noise: np.ndarray, *, alpha: float, sigma: float) -> Map:
    """Elastic deformation: displacements alpha · G_sigma ∗ noise.

    Simard, Steinkraus, Platt: Best practices for convolutional neural networks, ICDAR 2003.

    Args:
      noise: float32 [2, H, W], uniform in [-1, 1), for y and x.
      alpha: pixels.
      sigma: of the Gaussian, pixels.
    """
    y, x = identity_map(size)
    dy, dx = (alpha * smooth(plane, sigma) for plane in noise)
    return y + dy, x + dx


def distortion_map(size: tuple[int, int], noise: np.ndarray, *, amount: float, sigma: float) -> Map:
    """Displacements along the gradient of G_sigma ∗ noise, scaled so that the largest is amount · W pixels.

    Args:
      noise: float32 [H, W], standard normal.
      amount: the largest displacement of either axis, as a share of the width.
      sigma: of the Gaussian, pixels.
    """
    y, x = identity_map(size)
    dy, dx = np.gradient(smooth(noise, sigma))
    largest = amount * size[1]
    return tuple(base + slope * np.float32(largest / max(np.abs(slope).max(), 1e-12)) for base, slope in ((y, dy), (x, dx)))


def barrel_map(size: tuple[int, int], *, center: tuple[float, float], radius: float, amount: float) -> Map:
    """Barrel distortion in a circle, or pincushion for a negative amount: source radius = sin(π d / 2R)^amount · output radius d.

    Args:
      center: (x, y) as shares of width and height.
      radius: R as a share of the width; pixels outside do not move.
      amount: the exponent.
    """
    y, x = identity_map(size)
    centre_y, centre_x, reach = center[1] * size[0], center[0] * size[1], radius * size[1]
    dy, dx = y - np.float32(centre_y), x - np.float32(centre_x)
    distance = np.sqrt(dy * dy + dx * dx)
    # A negative exponent diverges at the centre, so the radius is at least half a pixel; the centre itself stays.
    sine = np.sin(np.float32(np.pi / 2 / reach) * np.clip(distance, 0.5, reach))
    factor = np.where(distance < reach, sine ** np.float32(amount), np.float32(1.0))
    return np.float32(centre_y) + factor * dy, np.float32(centre_x) + factor * dx


def smooth(plane: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian filter truncated at four sigma, reflected at the border (scipy.ndimage.gaussian_filter with mode "mirror")."""
    length = 2 * int(4 * sigma + 0.5) + 1
    return cv2.GaussianBlur(plane, (length, length), sigma, borderType=cv2.BORDER_REFLECT_101)


def warp_image(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear sampling; uint8 or uint16 [H, W] or [H, W, 3], the type is kept."""
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def warp_mask(mask: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Nearest-neighbour sampling: no new values."""
    return cv2.remap(mask, np.rint(x), np.rint(y), cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)


def sharpen(image: np.ndarray, k: float) -> np.ndarray:
    """The image plus k times its eight-neighbour Laplacian: a 3 × 3 kernel of -k around 1 + 8 k."""
    kernel = np.full((3, 3), -k, np.float32)
    kernel[1, 1] = 1 + 8 * k
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def brighten(image: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """alpha · value + beta, rounded and clipped to the range of the dtype; beta in levels of 8 bits."""
    top = np.iinfo(image.dtype).max
    return np.clip(np.rint(image.astype(np.float32) * alpha + beta * (top / 255)), 0, top).astype(image.dtype)


def blur(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Box filter of size = (width, height) pixels."""
    return cv2.blur(image, tuple(size), borderType=cv2.BORDER_REFLECT_101)
