"""Random flips, turns, warps and colours for the training split, as a pure function of (seed, position).

    augment = Augment(rotation_probability=0.5, elastic_probability=0.3)
    image, mask = augment(image, mask, seed=7, position=position)     # inside dataset.map

Every operation draws from a key of its own, folded from (seed, position, operation): what one operation draws depends neither on
the others nor on the batch, the worker or the thread. All warps of an image are one coordinate map, sampled once; flips and quarter
turns move whole pixels, and an image for which no warp was drawn is never resampled. Arithmetic is float32, the image is rounded
once, at the end; the mask keeps its ids, and what no source pixel covers becomes 255 (ignore).

The order is quarter turn, flips, one warp (shear, scale, rotation, elastic, distortion, barrel, pincushion), sharpen, brightness,
contrast, gamma, hue, saturation, blur, noise. Not promised: the same pixels on another machine type (float32 products may round
differently there) or off the host's CPU (a stateless key may mean another generator there); a low-pass filter where the content shrinks.
"""

import dataclasses
import math

import gin
import tensorflow as tf

from flexseg.data import color, distortions, geometry
from flexseg.errors import UserError

# Every operation and the number its key is folded with. A number once given stays: it is part of what a seed means.
OPERATIONS = {
    "horizontal_flip": 1,
    "vertical_flip": 2,
    "quarter_turns": 3,
    "rotation": 4,
    "scale": 5,
    "shear": 6,
    "elastic": 7,
    "brightness": 8,
    "contrast": 9,
    "gamma": 10,
    "hue": 11,
    "saturation": 12,
    "blur": 13,
    "noise": 14,
    "distortion": 15,
    "barrel": 16,
    "pincushion": 17,
    "sharpen": 18,
}

# Sets these draws apart from others with the same seed and position (order of the stream, crops, dropout).
_AUGMENT = 0x6175676D

# What a range may hold, in the range's own unit.
_LIMITS = {
    "rotation_degrees": (-180.0, 180.0),
    "scale_factor": (0.1, 10.0),
    "shear_factor": (-0.9, 0.9),
    "elastic_amplitude": (0.0, 1000.0),
    "brightness_levels": (-255.0, 255.0),
    "contrast_factor": (0.0, 10.0),
    "gamma_exponent": (0.1, 10.0),
    "hue_degrees": (-180.0, 180.0),
    "saturation_factor": (0.0, 10.0),
    "blur_sigma": (0.05, 10.0),
    "noise_std": (0.0, 255.0),
    "distortion_share": (0.0, 0.25),
    "barrel_radius": (0.01, 2.0),
    "barrel_amount": (0.0, 0.9),
    "barrel_center": (0.0, 1.0),
    "sharpen_k": (0.0, 10.0),
}


@gin.configurable("augment")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """What may happen to a training image, how often, and within which range.

    A probability is per image; 0 leaves the operation out. A range is (lowest, highest), drawn from uniformly; `scale_factor` and
    `gamma_exponent` uniformly in their logarithm. (a, a) always takes a. The defaults suit H&E-stained tissue and other pictures
    without an up or a left: all eight orientations equally often, moderate warps, the differences of stains and scanners. For
    radiographs, street scenes and the like set `vertical_flip_probability` and `quarter_turns_probability` to 0.

    Attributes:
      enabled: False returns every image and mask as it is.
      horizontal_flip_probability: left to right.
      vertical_flip_probability: upside down.
      quarter_turns_probability: a turn by 90, 180 or 270 degrees, equally often (0.75 makes all four orientations equal); an image
        that is not square is turned by 180 degrees, as 90 would not fit.
      rotation_degrees: about the centre, counter-clockwise.
      scale_factor: above 1 enlarges the content, below 1 shrinks it and uncovers a border.
      shear_factor: rows per column and columns per row, one draw each.
      elastic_amplitude: standard deviation of the random displacements in pixels (normal, cut at twice that), at most an eighth of
        `elastic_spacing`: beyond it the image may fold over itself.
      elastic_spacing: pixels between the random displacements, which are interpolated bicubically.
      brightness_levels: added, in grey levels.
      contrast_factor: stretches the distance to the image's mean.
      gamma_exponent: of values scaled to 0..1; above 1 darkens.
      hue_degrees: a turn in the chroma plane of Y I Q. Hue and saturation are skipped on images of one channel.
      saturation_factor: 0 is grey, 1 changes nothing.
      blur_sigma: of the Gaussian, in pixels.
      noise_std: of independent Gaussian noise, in grey levels.
      distortion_share: the largest displacement along the slopes of a random surface, as a share of the width.
      distortion_sigma: of the Gaussian that makes the surface smooth, in pixels.
      barrel_radius: of the circle within which barrel and pincushion move pixels, as a share of the width.
      barrel_amount: how much; the pincushion takes the negative of it.
      barrel_center: of the circle, as shares of width and height, drawn apart for the two.
      sharpen_k: how much of the difference to the eight neighbours is added.

    Raises:
      UserError: a probability outside 0..1, a range out of order or beyond what the operation can do.
    """

    enabled: bool = True
    horizontal_flip_probability: float = 0.5
    vertical_flip_probability: float = 0.5
    quarter_turns_probability: float = 0.75
    rotation_probability: float = 0.3
    rotation_degrees: tuple[float, float] = (-45.0, 45.0)
    scale_probability: float = 0.3
    scale_factor: tuple[float, float] = (0.8, 1.25)
    shear_probability: float = 0.1
    shear_factor: tuple[float, float] = (-0.1, 0.1)
    elastic_probability: float = 0.3
    elastic_amplitude: tuple[float, float] = (2.0, 8.0)
    elastic_spacing: int = 128
    brightness_probability: float = 0.3
    brightness_levels: tuple[float, float] = (-20.0, 20.0)
    contrast_probability: float = 0.3
    contrast_factor: tuple[float, float] = (0.8, 1.2)
    gamma_probability: float = 0.2
    gamma_exponent: tuple[float, float] = (0.8, 1.25)
    hue_probability: float = 0.3
    hue_degrees: tuple[float, float] = (-10.0, 10.0)
    saturation_probability: float = 0.3
    saturation_factor: tuple[float, float] = (0.7, 1.3)
    blur_probability: float = 0.1
    blur_sigma: tuple[float, float] = (0.3, 1.2)
    noise_probability: float = 0.1
    noise_std: tuple[float, float] = (2.0, 8.0)
    distortion_probability: float = 0.0
    distortion_share: tuple[float, float] = (0.01, 0.03)
    distortion_sigma: float = 40.0
    barrel_probability: float = 0.0
    pincushion_probability: float = 0.0
    barrel_radius: tuple[float, float] = (0.3, 0.3)
    barrel_amount: tuple[float, float] = (0.1, 0.3)
    barrel_center: tuple[float, float] = (0.3, 0.7)
    sharpen_probability: float = 0.0
    sharpen_k: tuple[float, float] = (0.5, 1.0)

    def __post_init__(self):
        for operation in OPERATIONS:
            probability = self._probability(operation)
            if not 0 <= probability <= 1:
                raise UserError(f"augment.{operation}_probability", expected="a number from 0 to 1", found=repr(probability))
        for name, (least, most) in _LIMITS.items():
            bounds = getattr(self, name)
            if len(bounds) != 2 or not least <= bounds[0] <= bounds[1] <= most:
                raise UserError(f"augment.{name}", expected=f"(lowest, highest) in this order, within {least:g} to {most:g}", found=repr(bounds))
        if not 1 <= self.distortion_sigma <= 200:
            raise UserError("augment.distortion_sigma", expected="1 to 200 pixels", found=repr(self.distortion_sigma))
        if self.elastic_spacing < 8:
            raise UserError("augment.elastic_spacing", expected="at least 8 pixels", found=repr(self.elastic_spacing))
        if self.elastic_amplitude[1] > self.elastic_spacing / 8:
            raise UserError(
                "augment.elastic_amplitude",
                expected=f"at most an eighth of augment.elastic_spacing ({self.elastic_spacing / 8:g} pixels), or the image may fold over itself",
                found=repr(self.elastic_amplitude),
                cure="lower the amplitude or raise augment.elastic_spacing.",
            )

    def __call__(self, image, mask, *, seed, position):
        """Augments one example.

        Args:
          image: uint8 [H, W, C], C of 1 or 3, all static, H and W at least 2.
          mask: uint8 [H, W, 1], class ids.
          seed: the run's seed, an integer.
          position: int64 scalar tensor, the example's place in the endless stream.

        Returns:
          (image uint8 [H, W, C], mask uint8 [H, W, 1]); the mask holds ids that were in it, and 255.
        """
        if not self.enabled:
            return image, mask
        if not image.shape.is_fully_defined() or image.shape[-1] not in (1, 3) or min(image.shape[:2]) < 2 or mask.shape != (*image.shape[:2], 1):
            raise ValueError(f"image must have a static shape [H, W, 1 or 3] and mask [H, W, 1], got {image.shape} and {mask.shape}")
        key = _fold(tf.stack([tf.cast(seed, tf.int64), tf.constant(_AUGMENT, tf.int64)]), position)
        image, mask = self._reorder(image, mask, key)
        image, mask = self._warp(image, mask, key)
        image = self._recolor(image, key)
        return tf.saturate_cast(tf.round(image), tf.uint8), mask

    def _reorder(self, image, mask, key):
        """Quarter turn, then flips, as one of the eight reorderings of `geometry.permute`."""
        flip_x, _ = self._draw("horizontal_flip", key)
        flip_y, _ = self._draw("vertical_flip", key)
        turned, share = self._draw("quarter_turns", key)
        square = image.shape[0] == image.shape[1]
        turns = 1 + tf.cast(share[0] * 3.0, tf.int32) if square else tf.constant(2)
        # Counter-clockwise: 90 degrees = transpose, then upside down; 180 = both flips; 270 = transpose, then left to right.
        transpose = turned & (turns != 2) if square else False
        flip_y ^= turned & (turns <= 2)
        flip_x ^= turned & (turns >= 2)
        return tuple(geometry.permute(pixels, transpose=transpose, flip_y=flip_y, flip_x=flip_x) for pixels in (image, mask))

    def _warp(self, image, mask, key):
        """All warps as one map; an operation that was not drawn takes its neutral value. Image out: float32."""
        rotated, u_rotation = self._draw("rotation", key)
        scaled, u_scale = self._draw("scale", key)
        sheared, u_shear = self._draw("shear", key)
        bent, u_elastic = self._draw("elastic", key)
        distorted, u_distortion = self._draw("distortion", key)
        barreled, pinched = (self._draw(name, key)[0] for name in ("barrel", "pincushion"))
        size = image.shape[:2]

        def warped():
            matrix = geometry.affine_matrix(
                rotation_degrees=tf.where(rotated, _between(self.rotation_degrees, u_rotation[0]), 0.0),
                scale_factor=tf.where(scaled, _between_logarithms(self.scale_factor, u_scale[0]), 1.0),
                shear_y=tf.where(sheared, _between(self.shear_factor, u_shear[0]), 0.0),
                shear_x=tf.where(sheared, _between(self.shear_factor, u_shear[1]), 0.0),
            )
            displacement = None
            if self.elastic_probability > 0:
                grid = [2, *(geometry.control_points(length, self.elastic_spacing) for length in size)]
                control = tf.random.stateless_truncated_normal(grid, _bulk_key("elastic", key))
                control *= tf.where(bent, _between(self.elastic_amplitude, u_elastic[0]), 0.0)
                displacement = geometry.displacement_field(control, size=size, spacing=self.elastic_spacing)
            if self.distortion_probability > 0:
                largest = tf.where(distorted, _between(self.distortion_share, u_distortion[0]) * size[1], 0.0)
                noise = tf.random.stateless_normal(size, _bulk_key("distortion", key))
                slope = distortions.surface_slope(noise, size=size, sigma=self.distortion_sigma) * largest
                displacement = slope if displacement is None else displacement + slope
            y, x = geometry.source_coordinates(size, matrix, displacement)
            y, x = self._bulge("barrel", barreled, 1.0, y, x, size=size, key=key)
            y, x = self._bulge("pincushion", pinched, -1.0, y, x, size=size, key=key)
            return geometry.sample_image(image, y, x), geometry.sample_mask(mask, y, x)

        any_warp = rotated | scaled | sheared | bent | distorted | barreled | pinched
        return tf.cond(any_warp, warped, lambda: (tf.cast(image, tf.float32), mask))

    def _bulge(self, operation, chosen, sign, y, x, *, size, key):
        """Barrel or pincushion, where it was drawn."""
        if self._probability(operation) == 0:
            return y, x
        share = tf.random.stateless_uniform([4], _bulk_key(operation, key))
        center = _between(self.barrel_center, share[0]), _between(self.barrel_center, share[1])
        radius, amount = _between(self.barrel_radius, share[2]), sign * _between(self.barrel_amount, share[3])
        return tf.cond(chosen, lambda: distortions.barrel(y, x, size=size, center=center, radius=radius, amount=amount), lambda: (y, x))

    def _recolor(self, image, key):
        """The colour operations in their order, each only where it was drawn."""

        def maybe(operation, change, image):
            if self._probability(operation) == 0:
                return image
            chosen, share = self._draw(operation, key)
            return tf.cond(chosen, lambda: change(image, share[0]), lambda: image)

        image = maybe("sharpen", lambda pixels, u: color.unsharp(pixels, _between(self.sharpen_k, u)), image)
        image = maybe("brightness", lambda pixels, u: color.brightness(pixels, _between(self.brightness_levels, u)), image)
        image = maybe("contrast", lambda pixels, u: color.contrast(pixels, _between(self.contrast_factor, u)), image)
        image = maybe("gamma", lambda pixels, u: color.gamma(pixels, _between_logarithms(self.gamma_exponent, u)), image)
        if image.shape[-1] == 3:
            image = maybe("hue", lambda pixels, u: color.hue(pixels, _between(self.hue_degrees, u)), image)
            image = maybe("saturation", lambda pixels, u: color.saturation(pixels, _between(self.saturation_factor, u)), image)
        radius = min(math.ceil(3 * self.blur_sigma[1]), *(length - 1 for length in image.shape[:2]))
        image = maybe("blur", lambda pixels, u: color.blur(pixels, _between(self.blur_sigma, u), radius=radius), image)
        return maybe("noise", lambda pixels, u: color.noise(pixels, _between(self.noise_std, u), seed=_bulk_key("noise", key)), image)

    def _draw(self, operation, key):
        """(whether the operation happens: bool scalar, float32 [2] uniform in [0, 1) for its parameters)."""
        uniform = tf.random.stateless_uniform([3], _fold(key, OPERATIONS[operation]))
        return uniform[0] < self._probability(operation), uniform[1:]

    def _probability(self, operation):
        return getattr(self, f"{operation}_probability")


def _fold(key, number):
    # int64 throughout: with an int32 number fold_in keeps 32 bits of the key only.
    return tf.random.experimental.stateless_fold_in(key, tf.cast(number, tf.int64))


def _bulk_key(operation, key):
    """For an operation's field of random numbers, apart from the three of `_draw`."""
    return _fold(_fold(key, OPERATIONS[operation]), 1)


def _between(bounds, share):
    return bounds[0] + (bounds[1] - bounds[0]) * share


def _between_logarithms(bounds, share):
    return bounds[0] * tf.pow(bounds[1] / bounds[0], share)
