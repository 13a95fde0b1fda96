"""Converts the reference system's [augmentor] and the sections of its operations to variants of `flexseg derive` and to augmentation in training.

The reference has one generator for both. A list of values gives one variant each for `derive`, and a range for training, which samples from it for
every image. A single value gives a range from the neutral value, if the operation has one. Without `model.generator` only `derive` gets bindings.
"""

import math
from collections.abc import Callable, Collection
from typing import Any

from flexseg.migration.reference_reader import Bindings, Reader, Rule

_MIDDLE_GREY = 128


def _augment(reader: Reader, key: str, operation: str, share: float, ranges: Bindings) -> None:
    """Binds probability and ranges of an augmentation in training."""
    if not reader.get("model.generator"):
        return
    reader.bind(key, "train", f"augment.{operation}_probability", share)
    for name, value in ranges.items() if share else ():
        reader.bind(key, "train", f"augment.{name}", value)


def _span(values: Collection[float]) -> tuple[float, float]:
    return float(min(values)), float(max(values))


def _flip(operation: str, name: str) -> Rule:
    def rule(reader: Reader, key: str, value: Any) -> None:
        _augment(reader, key, operation, 0.5 if value else 0.0, {})
        reader.bind(key, "derive", f"derive.{name}", bool(value))

    return rule


def _rotation(reader: Reader, key: str, value: Any) -> None:
    angles = tuple(reader.get("augmentor.angles") or (90, 180, 270)) if value else ()
    _augment(reader, key, "quarter_turns", 0.75 if any(angle % 90 == 0 for angle in angles) else 0.0, {})
    _augment(reader, key, "rotation", 0.5 if any(angle % 90 for angle in angles) else 0.0, {"rotation_degrees": (-180.0, 180.0)})
    reader.bind(key, "derive", "derive.rotations", angles)


def _factors(operation: str, name: str, setting: str, span: Callable[[tuple], tuple]) -> Rule:
    """Rule of a list of factors."""

    def rule(reader: Reader, key: str, value: Any) -> None:
        factors = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        reader.bind(key, "derive", f"derive.{name}", factors)
        _augment(reader, key, operation, 0.5 if factors else 0.0, {setting: span(factors)} if factors else {})

    return rule


def _elastic(reader: Reader, key: str, value: Any) -> None:
    if not value:
        reader.bind(key, "derive", "derive.elastic_sigmas", ())
        _augment(reader, key, "elastic", 0.0, {})
        return
    sigmas = tuple(reader.get("deformation.sigmoids") or [reader.get("deformation.sigmoid", 8)])
    alpha = round(reader.get("deformation.alpha", 1300) / 13, 2)  # the filter also ran over the three channels, see Derive.elastic_alpha
    reader.bind(key, "derive", "derive.elastic_sigmas", sigmas)
    reader.bind(key, "derive", "derive.elastic_alpha", alpha)
    # Uniform noise from -1 to 1, filtered by a Gaussian of sigma, has the standard deviation alpha / (sqrt(3) 2 sigma sqrt(pi)). Its correlation
    # halves after 1.67 sigma; that of a field interpolated between independent nodes halves after half of their spacing.
    amplitudes = [round(alpha / (2 * math.sqrt(3 * math.pi) * sigma), 2) for sigma in sigmas]
    spacing = max(round(3.3 * max(sigmas)), math.ceil(8 * max(amplitudes)), 8)
    _augment(reader, key, "elastic", 0.5, {"elastic_amplitude": _span(amplitudes), "elastic_spacing": spacing})


def _distortion(reader: Reader, key: str, value: Any) -> None:
    amounts = tuple(reader.get("distortion.distortions") or [0.02]) if value else ()
    sigma = float(reader.get("distortion.gaussian_filter_rsigma", 40))
    reader.bind(key, "derive", "derive.distortions", amounts)
    if amounts:
        reader.bind(key, "derive", "derive.distortion_sigma", sigma)
    ranges = {"distortion_share": _span(amounts), "distortion_sigma": sigma} if amounts else {}
    _augment(reader, key, "distortion", 0.5 if amounts else 0.0, ranges)


def _bulge(kind: str, section: str) -> Rule:
    def rule(reader: Reader, key: str, value: Any) -> None:
        centers = tuple(tuple(center) for center in reader.get(f"{section}.centers") or [(0.5, 0.5)]) if value else ()
        reader.bind(key, "derive", f"derive.{kind}_centers", centers)
        if value:
            reader.bind(key, "derive", f"derive.{kind}_radius", float(reader.get(f"{section}.radius", 0.5)))
            reader.bind(key, "derive", f"derive.{kind}_amount", abs(float(reader.get(f"{section}.amount", 0.5))))
        _augment(reader, key, kind, 0.5 if value else 0.0, _of_all_bulges(reader))

    return rule


def _of_all_bulges(reader: Reader) -> Bindings:
    """Barrel and pincushion share one range in training, which covers both sections."""
    sections = [section for section in ("barrdistortion", "pincdistortion") if reader.get(f"augmentor.{section}")]
    if not sections:
        return {}
    return {
        "barrel_radius": _span([reader.get(f"{section}.radius", 0.5) for section in sections]),
        "barrel_amount": _span([abs(reader.get(f"{section}.amount", 0.5)) for section in sections]),
        "barrel_center": _span([share for section in sections for center in reader.get(f"{section}.centers") or [(0.5, 0.5)] for share in center]),
    }


def _sharpening(reader: Reader, key: str, value: Any) -> None:
    k = float(reader.get("sharpening.k", 1.0))
    reader.bind(key, "derive", "derive.sharpenings", (k,) if value else ())
    _augment(reader, key, "sharpen", 0.5 if value else 0.0, {"sharpen_k": (k, k)})


def _brightening(reader: Reader, key: str, value: Any) -> None:
    factor, levels = float(reader.get("brightening.alpha", 1.2)), float(reader.get("brightening.beta", 10))
    reader.bind(key, "derive", "derive.brightenings", ((factor, levels),) if value else ())
    # factor · v + levels is a change of contrast about mid-grey plus a shift of mid-grey.
    shift = round(levels + (factor - 1) * _MIDDLE_GREY, 2)
    _augment(reader, key, "brightness", 0.5 if value else 0.0, {"brightness_levels": _span((0, shift))})
    _augment(reader, key, "contrast", 0.5 if value else 0.0, {"contrast_factor": _span((1, factor))})


def _read_with(switch: str) -> Rule:
    return lambda reader, key, value: reader.refer(key, switch)


_SETTINGS = {
    "rotation": ("augmentor.angles",),
    "deformation": ("deformation.alpha", "deformation.sigmoid", "deformation.sigmoids"),
    "distortion": ("distortion.gaussian_filter_rsigma", "distortion.distortions"),
    "sharpening": ("sharpening.k",),
    "brightening": ("brightening.alpha", "brightening.beta"),
    "barrdistortion": ("barrdistortion.radius", "barrdistortion.amount", "barrdistortion.centers"),
    "pincdistortion": ("pincdistortion.radius", "pincdistortion.amount", "pincdistortion.centers"),
}
AUGMENTOR: dict[str, str | Rule] = {
    "augmentor.hflip": _flip("horizontal_flip", "hflip"),
    "augmentor.vflip": _flip("vertical_flip", "vflip"),
    "augmentor.rotation": _rotation,
    "augmentor.shrinks": _factors("scale", "shrinks", "scale_factor", lambda factors: (float(min(factors)), 1.0)),
    "augmentor.shears": _factors("shear", "shears", "shear_factor", lambda factors: _span([sign * factor for factor in factors for sign in (-1, 1)])),
    "augmentor.deformation": _elastic,
    "augmentor.distortion": _distortion,
    "augmentor.barrdistortion": _bulge("barrel", "barrdistortion"),
    "augmentor.pincdistortion": _bulge("pincushion", "pincdistortion"),
    "augmentor.sharpening": _sharpening,
    "augmentor.brightening": _brightening,
    "distortion.gaussian_filter_sigma": "the reference computes with it and uses nothing of that",
    **{setting: _read_with(f"augmentor.{switch}") for switch, settings in _SETTINGS.items() for setting in settings},
}
