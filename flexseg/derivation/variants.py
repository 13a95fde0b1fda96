"""Variants: the copies that `flexseg derive` makes of a training image and its mask, and their settings: `derive.*`.

    derive = Derive(rotations=(90, 180, 270), barrel_centers=((0.3, 0.3),))
    for variant in derive.variants():
        image, mask = variant.apply(image, mask, rng)
        variant.prefix                                  # "rotated_90"

The defaults are the 21 variants of the reference system's TNBC set. A geometric variant takes image and mask through one map; colour changes leave
the mask alone.
"""

import dataclasses
from collections.abc import Callable, Iterator

import gin
import numpy as np

from flexseg.derivation import deformations
from flexseg.errors import UserError

Pair = tuple[np.ndarray, np.ndarray]
_LIMITS = {
    "rotations": (-360, 360), "shears": (-0.9, 0.9), "shrinks": (0.1, 1), "elastic_sigmas": (1, 200), "elastic_alpha": (0, 1e5),
    "distortions": (0, 0.25), "distortion_sigma": (1, 200), "barrel_centers": (0, 1), "barrel_radius": (0.01, 2), "barrel_amount": (0, 0.9),
    "pincushion_centers": (0, 1), "pincushion_radius": (0.01, 2), "pincushion_amount": (0, 0.9), "brightenings": (-255, 255),
    "sharpenings": (0, 10), "blurs": (1, 99),
}  # fmt: skip
_PAIRS = ("barrel_centers", "pincushion_centers", "brightenings", "blurs")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to derive a pair.

    Attributes:
      prefix: kind and parameters; before the stem of the source it names the files.
      apply: (image, mask, generator of random numbers) -> (image, mask).
    """

    prefix: str
    apply: Callable[[np.ndarray, np.ndarray, np.random.Generator], Pair]


@gin.configurable("derive")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Derive:
    """Which variants; an empty tuple or False leaves a kind out.

    Attributes:
      hflip, vflip: left to right, upside down.
      rotations: degrees, counter-clockwise; multiples of 90 move whole pixels, others turn about the centre.
      shears: rows a column.
      shrinks: factors below 1; what is uncovered is the mirrored picture.
      elastic_sigmas: of the Gaussian over random displacements, in pixels.
      elastic_alpha: what the smoothed displacements are multiplied by. The reference system's 1300 came to 112, 100 and 90 at sigma 8, 9 and 10:
        its filter ran over the three channels too, with zeros beyond them, which leaves a factor of sqrt(3) / (sigma sqrt(2 pi)).
      distortions: the largest displacement along the slopes of a random surface, as a share of the width.
      distortion_sigma: of the Gaussian that makes the surface smooth, in pixels.
      barrel_centers, pincushion_centers: one variant each; (x, y) as shares of width and height.
      barrel_radius, pincushion_radius: of the circle, as a share of the width.
      barrel_amount, pincushion_amount: exponents; the pincushion takes the negative of its own.
      brightenings: (factor, levels) pairs; the image alone.
      sharpenings: shares of the difference to the eight neighbours that are added; the image alone.
      blurs: (width, height) of a box filter; the image alone.
      seed: of everything random, with the case and the variant.

    Raises:
      UserError: for a value out of range.
    """

    hflip: bool = True
    vflip: bool = True
    rotations: tuple[float, ...] = (90, 180, 270)
    shears: tuple[float, ...] = ()
    shrinks: tuple[float, ...] = ()
    elastic_sigmas: tuple[float, ...] = (8, 9, 10)
    elastic_alpha: float = 100.0
    distortions: tuple[float, ...] = (0.02, 0.03, 0.04)
    distortion_sigma: float = 40.0
    barrel_centers: tuple[tuple[float, float], ...] = ((0.3, 0.3), (0.7, 0.3), (0.5, 0.5), (0.3, 0.7), (0.7, 0.7))
    pincushion_centers: tuple[tuple[float, float], ...] = ((0.3, 0.3), (0.7, 0.3), (0.5, 0.5), (0.3, 0.7), (0.7, 0.7))
    barrel_radius: float = 0.3
    barrel_amount: float = 0.3
    pincushion_radius: float = 0.3
    pincushion_amount: float = 0.3
    brightenings: tuple[tuple[float, float], ...] = ()
    sharpenings: tuple[float, ...] = ()
    blurs: tuple[tuple[int, int], ...] = ()
    seed: int = 0

    def __post_init__(self):
        for name, (least, most) in _LIMITS.items():
            value, pairs = getattr(self, name), name in _PAIRS
            shaped = isinstance(value, tuple) and all(isinstance(each, tuple) and len(each) == 2 for each in value) if pairs else True
            numbers = np.array(value, float).ravel() if shaped else np.array([np.nan])
            if not ((least <= numbers) & (numbers <= most)).all():
                expected = f"{'pairs of ' * pairs}numbers from {least:g} to {most:g}"
                raise UserError(f"derive.{name}", expected=expected, found=repr(value))

    def variants(self) -> list[Variant]:
        """All that is asked for, in a fixed order.

        Raises:
          UserError: when nothing is.
        """
        found = [*self._permutations(), *self._warps(), *self._colors()]
        if not found:
            raise UserError("derive.*", expected="at least one variant", found="none: every kind is left out")
        return found

    def _permutations(self) -> Iterator[Variant]:
        if self.hflip:
            yield Variant("hflipped", lambda image, mask, _: (image[:, ::-1], mask[:, ::-1]))
        if self.vflip:
            yield Variant("vflipped", lambda image, mask, _: (image[::-1], mask[::-1]))
        for degrees in self.rotations:
            if degrees % 90 == 0:
                turns = int(degrees // 90)
                yield Variant(f"rotated_{degrees:g}", lambda image, mask, _, k=turns: (np.rot90(image, k), np.rot90(mask, k)))

    def _warps(self) -> Iterator[Variant]:
        def warp(prefix: str, make: Callable[[tuple[int, int], np.random.Generator], deformations.Map]) -> Variant:
            def apply(image, mask, rng):
                y, x = make(image.shape[:2], rng)
                return deformations.warp_image(image, y, x), deformations.warp_mask(mask, y, x)

            return Variant(prefix, apply)

        def affine(**settings):
            return lambda size, _: deformations.affine_map(size, **settings)

        def elastic(sigma):
            def make(size, rng):
                noise = 2 * rng.random((2, *size), dtype=np.float32) - 1
                return deformations.elastic_map(size, noise, alpha=self.elastic_alpha, sigma=sigma)

            return make

        def distortion(amount):
            def make(size, rng):
                noise = rng.standard_normal(size, dtype=np.float32)
                return deformations.distortion_map(size, noise, amount=amount, sigma=self.distortion_sigma)

            return make

        def bulge(center, radius, amount):
            return lambda size, _: deformations.barrel_map(size, center=center, radius=radius, amount=amount)

        for degrees in self.rotations:
            if degrees % 90:
                yield warp(f"rotated_{degrees:g}", affine(rotation_degrees=degrees))
        for factor in self.shears:
            yield warp(f"sheared_{factor:g}", affine(shear_y=factor))
        for factor in self.shrinks:
            yield warp(f"shrunk_{factor:g}", affine(scale_factor=factor))
        for sigma in self.elastic_sigmas:
            yield warp(f"deformed_alpha_{self.elastic_alpha:g}_sigma_{sigma:g}", elastic(sigma))
        for amount in self.distortions:
            yield warp(f"distorted_{amount:g}_sigma_{self.distortion_sigma:g}", distortion(amount))
        bulges = [("barrel", center, self.barrel_radius, self.barrel_amount) for center in self.barrel_centers]
        bulges += [("pincushion", center, self.pincushion_radius, -self.pincushion_amount) for center in self.pincushion_centers]
        for kind, center, radius, amount in bulges:
            yield warp(f"{kind}_{center[0]:g}_{center[1]:g}_radius_{radius:g}_amount_{amount:g}", bulge(center, radius, amount))

    def _colors(self) -> Iterator[Variant]:
        for factor, levels in self.brightenings:
            change = lambda image, mask, _, a=factor, b=levels: (deformations.brighten(image, a, b), mask)  # noqa: E731
            yield Variant(f"brightened_{factor:g}_{levels:g}", change)
        for k in self.sharpenings:
            yield Variant(f"sharpened_{k:g}", lambda image, mask, _, k=k: (deformations.sharpen(image, k), mask))
        for size in self.blurs:
            yield Variant(f"blurred_{size[0]}x{size[1]}", lambda image, mask, _, size=size: (deformations.blur(image, size), mask))
