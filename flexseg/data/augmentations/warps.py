"""Operations that warp: they change where a pixel comes from, for the image and the mask alike.

    image, mask = warp(image, mask, [Draw(operation, settings, key) for operation in WARPS])

All warps of an example make one map from output pixels to source pixels, which is sampled once, bilinearly for the image. An example without a warp
is not resampled. The map is affine about the centre (`AffineWarp`), plus displacement fields (`DisplacementWarp`), then changed in the order of this
file (`CoordinateWarp`). The formulas are in flexseg/data/geometry.py and distortions.py, and are tested there; a new one may stand in its class.
"""

# ruff: noqa: D102
# The base class of each kind documents `__call__` for all its operations.

import functools
import math
import operator
from collections.abc import Sequence

import tensorflow as tf

from flexseg.data import distortions, geometry
from flexseg.data.augmentations.draw import Draw
from flexseg.data.augmentations.operation import Number, Operation, Range, next_in
from flexseg.errors import UserError

WARPS: list[Operation] = []
_IDENTITY = {"rotation_degrees": 0.0, "scale_factor": 1.0, "shear_y": 0.0, "shear_x": 0.0}


class AffineWarp(Operation):
    """A part of the affine map. `geometry.affine_matrix` fixes the order: shear, scale, rotation."""

    def __call__(self, *, draw: Draw) -> dict[str, tf.Tensor]:
        """Arguments of `geometry.affine_matrix`, with their neutral values where not `draw.happens`."""
        raise NotImplementedError


class DisplacementWarp(Operation):
    """A displacement of every pixel, in source pixels. The displacements of several operations add up."""

    def __call__(self, *, size: tuple[int, int], draw: Draw) -> tf.Tensor:
        """float32 [2, H, W], for y and x; zeros where not `draw.happens`. `size`: (H, W) of the image."""
        raise NotImplementedError


class CoordinateWarp(Operation):
    """A change of the coordinates that the image is sampled at."""

    def __call__(self, coordinates: tuple[tf.Tensor, tf.Tensor], *, size: tuple[int, int], draw: Draw) -> tuple[tf.Tensor, tf.Tensor]:
        """(y, x), each float32 [H, W], changed; called where `draw.happens` only. `size`: (H, W) of the image."""
        raise NotImplementedError


def warp(image: tf.Tensor, mask: tf.Tensor, draws: Sequence[Draw]) -> tuple[tf.Tensor, tf.Tensor]:
    """Image uint8 [H, W, C] and mask uint8 [H, W, 1] after all warps; the image becomes float32, unrounded."""
    if not draws:
        return tf.cast(image, tf.float32), mask
    size = tuple(image.shape[:2])

    def of(kind: type) -> list[Draw]:
        return [draw for draw in draws if isinstance(draw.operation, kind)]

    def warped() -> tuple[tf.Tensor, tf.Tensor]:
        affine = dict(_IDENTITY)
        for draw in of(AffineWarp):
            affine |= draw.operation(draw=draw)
        displacements = [draw.operation(size=size, draw=draw) for draw in of(DisplacementWarp)]
        displacement = functools.reduce(operator.add, displacements) if displacements else None
        coordinates = geometry.source_coordinates(size, geometry.affine_matrix(**affine), displacement)
        for draw in of(CoordinateWarp):
            coordinates = draw.applied(coordinates, size=size)
        return geometry.sample_image(image, *coordinates), geometry.sample_mask(mask, *coordinates)

    any_warp = functools.reduce(operator.or_, (draw.happens for draw in draws))
    return tf.cond(any_warp, warped, lambda: (tf.cast(image, tf.float32), mask))


@next_in(WARPS)
class Shear(AffineWarp):
    """Shears the image about its centre."""

    name = "shear"
    key_number = 6
    probability = 0.1
    factor = Range(
        "shear_factor",
        (-0.1, 0.1),
        limits=(-0.9, 0.9),
        sentence="the shift in rows per column and in columns per row, one draw each.",
    )

    def __call__(self, *, draw):
        shear_y, shear_x = (draw.value(self.factor, share, otherwise=0.0) for share in (draw.shares[0], draw.shares[1]))
        return {"shear_y": shear_y, "shear_x": shear_x}


@next_in(WARPS)
class Scale(AffineWarp):
    """Enlarges or shrinks the content of the image about its centre."""

    name = "scale"
    key_number = 5
    probability = 0.3
    factor = Range(
        "scale_factor",
        (0.8, 1.25),
        limits=(0.1, 10.0),
        logarithmic=True,
        sentence="the scale. Above 1 it enlarges the content, below 1 it shrinks it and uncovers a border.",
    )

    def __call__(self, *, draw):
        return {"scale_factor": draw.value(self.factor, otherwise=1.0)}


@next_in(WARPS)
class Rotation(AffineWarp):
    """Rotates the image about its centre."""

    name = "rotation"
    key_number = 4
    probability = 0.3
    degrees = Range("rotation_degrees", (-45.0, 45.0), limits=(-180.0, 180.0), sentence="the angle, counter-clockwise.")

    def __call__(self, *, draw):
        return {"rotation_degrees": draw.value(self.degrees, otherwise=0.0)}


@next_in(WARPS)
class Elastic(DisplacementWarp):
    """Deforms the image by a smooth random displacement field."""

    name = "elastic"
    key_number = 7
    probability = 0.3
    amplitude = Range(
        "elastic_amplitude",
        (2.0, 8.0),
        limits=(0.0, 1000.0),
        sentence="the standard deviation of the random displacements in pixels (normal, cut at twice that). It is at most an eighth of"
        " `elastic_spacing`: beyond it the image may fold over itself.",
    )
    spacing = Number(
        "elastic_spacing",
        128,
        limits=(8, math.inf),
        unit="pixels",
        sentence="the distance in pixels between the random displacements, which are interpolated bicubically.",
    )

    def check(self, settings: object) -> None:
        """Raises UserError for an amplitude at which the image may fold over itself, too."""
        super().check(settings)
        amplitude, spacing = getattr(settings, self.amplitude.name), getattr(settings, self.spacing.name)
        if amplitude[1] > spacing / 8:
            raise UserError(
                f"augment.{self.amplitude.name}",
                expected=f"at most an eighth of augment.{self.spacing.name} ({spacing / 8:g} pixels), or the image may fold over itself",
                found=repr(amplitude),
                cure=f"lower the amplitude or raise augment.{self.spacing.name}.",
            )

    def __call__(self, *, size, draw):
        spacing = draw.setting(self.spacing)
        grid = [2, *(geometry.control_points(length, spacing) for length in size)]
        control = draw.truncated_normal(grid) * draw.value(self.amplitude, otherwise=0.0)
        return geometry.displacement_field(control, size=size, spacing=spacing)


@next_in(WARPS)
class Distortion(DisplacementWarp):
    """Moves pixels along the slopes of a random surface."""

    name = "distortion"
    key_number = 15
    probability = 0.0
    share = Range("distortion_share", (0.01, 0.03), limits=(0.0, 0.25), sentence="the largest displacement, as a share of the width.")
    sigma = Number(
        "distortion_sigma",
        40.0,
        limits=(1, 200),
        unit="pixels",
        sentence="the standard deviation in pixels of the Gaussian that makes the surface smooth.",
    )

    def __call__(self, *, size, draw):
        noise = draw.normal(size)
        largest = draw.value(self.share, otherwise=0.0) * size[1]
        return distortions.surface_slope(noise, size=size, sigma=draw.setting(self.sigma)) * largest


@next_in(WARPS)
class Barrel(CoordinateWarp):
    """Bulges the image outwards within a circle."""

    name = "barrel"
    key_number = 16
    probability = 0.0
    radius = Range(
        "barrel_radius",
        (0.3, 0.3),
        limits=(0.01, 2.0),
        sentence="the radius of the circle within which barrel and pincushion move pixels, as a share of the width.",
    )
    amount = Range(
        "barrel_amount",
        (0.1, 0.3),
        limits=(0.0, 0.9),
        sentence="the exponent of barrel and pincushion: how much they move pixels. The pincushion takes the negative of it.",
    )
    center = Range(
        "barrel_center",
        (0.3, 0.7),
        limits=(0.0, 1.0),
        sentence="the centre of the circle, as shares of width and height, one draw each.",
    )
    sign = 1.0

    def __call__(self, coordinates, *, size, draw):
        share = draw.uniform([4])
        center = draw.value(self.center, share[0]), draw.value(self.center, share[1])
        radius, amount = draw.value(self.radius, share[2]), self.sign * draw.value(self.amount, share[3])
        return distortions.barrel(*coordinates, size=size, center=center, radius=radius, amount=amount)


@next_in(WARPS)
class Pincushion(Barrel):
    """Draws the image inwards within a circle. Its ranges are those of the barrel."""

    name = "pincushion"
    key_number = 17
    probability = 0.0
    sign = -1.0
