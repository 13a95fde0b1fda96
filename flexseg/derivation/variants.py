"""Variants: the augmentations that `flexseg derive` applies to a training image and its mask, bound as `derive.*`.

    derive = Derive(rotations=(90, 180, 270), barrel_centers=((0.3, 0.3),))
    for variant in derive.variants():
        image, mask = variant.apply(image, mask, rng)
        variant.prefix                                  # "rotated_90"

The defaults are the 21 variants of the reference system's TNBC set. A geometric variant applies one map to image and mask; a colour variant leaves
the mask unchanged.
"""

import dataclasses
from collections.abc import Callable, Iterator

import gin
import numpy as np

from flexseg.derivation import deformations
from flexseg.errors import UserError

Pair = tuple[np.ndarray, np.ndarray]
Apply = Callable[[np.ndarray, np.ndarray, np.random.Generator], Pair]
Size = tuple[int, int]
Make = Callable[[Size, np.random.Generator], deformations.Map]
_LIMITS = {
    "rotations": (-360, 360), "shears": (-0.9, 0.9), "shrinks": (0.1, 1), "elastic_sigmas": (1, 200), "elastic_alpha": (0, 1e5),
    "distortions": (0, 0.25), "distortion_sigma": (1, 200), "barrel_centers": (0, 1), "barrel_radius": (0.01, 2), "barrel_amount": (0, 0.9),
    "pincushion_centers": (0, 1), "pincushion_radius": (0.01, 2), "pincushion_amount": (0, 0.9), "brightenings": (-255, 255),
    "sharpenings": (0, 10), "blurs": (1, 99),
}  # fmt: skip
_PAIRS = ("barrel_centers", "pincushion_centers", "brightenings", "blurs")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One augmentation.

    Attributes:
      prefix: kind and parameters; precedes the stem of the source in file names.
      apply: (image, mask, random generator) -> (image, mask).
    """

    prefix: str
    apply: Apply


@gin.configurable("derive")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Derive:
    """The variants to write; an empty tuple or False disables a kind.

    Attributes:
      hflip, vflip: horizontal and vertical flip.
      rotations: degrees, counter-clockwise; multiples of 90 move whole pixels, others rotate about the centre.
      shears: shear factors, rows per column.
      shrinks: scale factors below 1; uncovered pixels are filled by reflection.
      elastic_sigmas: standard deviations in pixels of the Gaussian over random displacements.
      elastic_alpha: factor of the smoothed displacements. The reference system's 1300 had the effect of 112, 100 and 90 at sigma 8, 9 and 10: its
        filter also ran over the three channels, with zeros beyond them, which gives a factor of sqrt(3) / (sigma sqrt(2 pi)).
      distortions: the largest displacement along the gradient of a random surface, as a share of the width.
      distortion_sigma: standard deviation in pixels of the Gaussian that smooths the surface.
      barrel_centers, pincushion_centers: one variant each; (x, y) as shares of width and height.
      barrel_radius, pincushion_radius: radius of the circle, as a share of the width.
      barrel_amount, pincushion_amount: exponents, positive; pincushion negates its own.
      brightenings: (factor, levels) pairs; the image alone.
      sharpenings: factors of the eight-neighbour Laplacian; the image alone.
      blurs: (width, height) of a box filter; the image alone.
      seed: seed of random variants, combined with case and variant.

    Raises:
      UserError: a value is out of range.
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

    def __post_init__(self) -> None:
        for name, (least, most) in _LIMITS.items():
            value, pairs = getattr(self, name), name in _PAIRS
            shaped = isinstance(value, tuple) and all(isinstance(each, tuple) and len(each) == 2 for each in value) if pairs else True
            numbers = np.array(value, float).ravel() if shaped else np.array([np.nan])
            if not ((least <= numbers) & (numbers <= most)).all():
                expected = f"{'pairs of ' * pairs}numbers from {least:g} to {most:g}"
                raise UserError(f"derive.{name}", expected=expected, found=repr(value))

    def variants(self) -> list[Variant]:
        """All selected variants, in a fixed order.

        Raises:
          UserError: none is selected.
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
                yield Variant(f"rotated_{degrees:g}", _on_both(np.rot90, int(degrees // 90)))

    def _warps(self) -> Iterator[Variant]:
        def warp(prefix: str, make: Make) -> Variant:
            def apply(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> Pair:
                y, x = make(image.shape[:2], rng)
                return deformations.warp_image(image, y, x), deformations.warp_mask(mask, y, x)

            return Variant(prefix, apply)

        def affine(**settings: float) -> Make:
            return lambda size, _: deformations.affine_map(size, **settings)

        def elastic(sigma: float) -> Make:
            def make(size: Size, rng: np.random.Generator) -> deformations.Map:
                noise = 2 * rng.random((2, *size), dtype=np.float32) - 1
                return deformations.elastic_map(size, noise, alpha=self.elastic_alpha, sigma=sigma)

            return make

        def distortion(amount: float) -> Make:
            def make(size: Size, rng: np.random.Generator) -> deformations.Map:
                noise = rng.standard_normal(size, dtype=np.float32)
                return deformations.distortion_map(size, noise, amount=amount, sigma=self.distortion_sigma)

            return make

        def bulge(center: tuple[float, float], radius: float, amount: float) -> Make:
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
            yield Variant(f"brightened_{factor:g}_{levels:g}", _on_image(deformations.brighten, factor, levels))
        for k in self.sharpenings:
            yield Variant(f"sharpened_{k:g}", _on_image(deformations.sharpen, k))
        for size in self.blurs:
            yield Variant(f"blurred_{size[0]}x{size[1]}", _on_image(deformations.blur, size))


def _on_both(change: Callable[..., np.ndarray], *settings: object) -> Apply:
    return lambda image, mask, _: (change(image, *settings), change(mask, *settings))


def _on_image(change: Callable[..., np.ndarray], *settings: object) -> Apply:
    return lambda image, mask, _: (change(image, *settings), mask)
