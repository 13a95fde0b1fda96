"""The generator of synthetic tissue: same pixels everywhere, exact masks, no task for a threshold."""

import dataclasses
import hashlib
import math

import cv2
import numpy as np
import pytest

from flexseg.datasets.synthetic_nuclei import stain
from flexseg.datasets.synthetic_nuclei.nuclei import CLASS_NAMES, Sample, synthesize
from flexseg.errors import UserError


def _digest(sample: Sample) -> str:
    return hashlib.sha256(sample.image.tobytes() + sample.mask.tobytes() + sample.instances.astype("<u2").tobytes()).hexdigest()


def _images(*, slides, per_slide: int, seed: int = 0, image_size=(128, 128)) -> list[Sample]:
    return [synthesize(seed=seed, slide=slide, index=index, image_size=image_size) for slide in slides for index in range(per_slide)]


# Written down when version 1.0.0 of the data set was frozen, on x86-64 with NumPy 2.4.6; NumPy 1.26.4 gave the same.
GOLDEN = {
    (0, 0, 0, (128, 128)): "08c616efff236640f35751b090a83c563423f4e9364bcd09362c60224e444154",
    (7, 3, 11, (61, 97)): "4c1eca8a6fbcd00327ab53dd094bbb9c629af1861dc77d7e3d9032401458e9da",
    (2**63 - 1, 5, 2, (32, 200)): "bf489561d0e14e9fa92b7184bb36fabb1a57f2d5c6e245aaa0f19565d321d3d4",
}


@pytest.mark.parametrize("arguments", GOLDEN)
def test_the_pixels_are_those_of_every_other_machine(arguments):
    seed, slide, index, image_size = arguments
    assert _digest(synthesize(seed=seed, slide=slide, index=index, image_size=image_size)) == GOLDEN[arguments]


def test_the_random_words_are_splitmix64():
    # The first outputs of SplitMix64 from state 0, as Vigna's splitmix64.c gives them.
    states = [0x9E3779B97F4A7C15 * count & (1 << 64) - 1 for count in (1, 2)]
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert [stain.mix(state) for state in states] == expected
    assert stain.mix(np.array(states, np.uint64)).tolist() == expected


def test_the_integer_sine_is_a_sine():
    phase = np.arange(-4096, 8192)
    assert np.abs(stain.sine(phase) - 4096 * np.sin(2 * math.pi * phase / 4096)).max() < 8


def test_one_unit_of_dye_halves_the_light():
    plain = dataclasses.replace(
        stain.Slide.draw(seed=0, slide=0), haematoxylin=(1024, 2048, 0), eosin=(0, 0, 512), white=(3840, 3840, 3840), tilt=(0, 0)
    )
    dyes = [np.full((2, 2), amount, np.int32) for amount in (1024, 2048, 0)]
    assert np.abs(plain.colour(*dyes) - [1920, 960, 1920]).max() <= 1


def test_noise_fills_its_range_and_has_no_steps():
    noise = stain.value_noise(5, (200, 300), 20, 1)
    assert noise.min() >= 0 and noise.max() <= 4095 and abs(noise.mean() - 2048) < 200
    assert max(np.abs(np.diff(noise, axis=axis)).max() for axis in (0, 1)) < 4096 * 3 // 20  # smoothstep's slope is at most 1.5


def test_a_sample_depends_on_its_arguments_alone():
    first = synthesize(seed=1, slide=2, index=3, image_size=(64, 64))
    np.random.seed(0)
    synthesize(seed=9, slide=9, index=9, image_size=(32, 32))
    assert _digest(synthesize(seed=np.int64(1), slide=np.int64(2), index=3, image_size=[64, 64])) == _digest(first)
    for other in ({"seed": 2}, {"slide": 3}, {"index": 4}):
        assert _digest(synthesize(**{"seed": 1, "slide": 2, "index": 3, "image_size": (64, 64)} | other)) != _digest(first)


@pytest.mark.parametrize("image_size", [(32, 32), (33, 47), (128, 96), (257, 101)])
def test_any_size_has_exact_masks_and_gapless_instances(image_size):
    for sample in _images(slides=range(3), per_slide=3, image_size=image_size):
        assert sample.image.dtype == sample.mask.dtype == np.uint8 and sample.instances.dtype == np.uint16
        assert sample.image.shape == (*image_size, 3) and sample.mask.shape == sample.instances.shape == image_size
        assert np.array_equal(sample.mask, sample.instances > 0)
        numbers, pixels = np.unique(sample.instances[sample.mask > 0], return_counts=True)
        assert numbers.tolist() == list(range(1, len(numbers) + 1)) and len(numbers) >= 1
        assert pixels.min() >= 12
    assert CLASS_NAMES == ("background", "nucleus")


def test_nuclei_cover_ten_to_thirty_percent_and_touch():
    samples = _images(slides=range(6), per_slide=3)
    shares = [sample.mask.mean() for sample in samples]
    assert min(shares) > 0.10 and max(shares) < 0.30 and max(shares) > 1.5 * min(shares)
    for sample in samples:
        right, left = sample.instances[:, 1:], sample.instances[:, :-1]
        assert ((right != left) & (right > 0) & (left > 0)).any()


def test_slides_differ_in_stain_and_images_of_one_slide_do_not():
    looks = [stain.Slide.draw(seed=0, slide=slide) for slide in range(20)]
    for field in ("haematoxylin", "eosin", "blood", "white", "tilt", "nuclear_stain", "radius"):
        assert len({getattr(look, field) for look in looks}) > 15, field
    between, within = [], []
    for slide in range(6):
        colours = np.array([sample.image[sample.mask > 0].mean(axis=0) for sample in _images(slides=[slide], per_slide=4)])
        between.append(colours.mean(axis=0))
        within.append(colours.std(axis=0))
    assert np.std(between, axis=0).mean() > np.mean(within)


def test_eight_slides_span_the_tints_of_all_others():
    for seed in range(5):
        red = [stain.Slide.draw(seed=seed, slide=slide).haematoxylin[0] for slide in range(40)]
        blue = [stain.Slide.draw(seed=seed, slide=slide).eosin[2] for slide in range(40)]
        for tint in (red, blue):
            assert max(tint[:8]) - min(tint[:8]) > 0.65 * (max(tint) - min(tint))


def _channel(image: np.ndarray, name: str) -> np.ndarray:
    if name == "grey":
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return image[..., "RGB".index(name)] if name in "RGB" else cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)[..., "HSV".index(name)]


def _best_threshold_dice(samples: list[Sample]) -> dict[str, float]:
    """The larger of pooled and mean per-image foreground Dice of the best threshold, either direction, for each channel."""
    best = {}
    for name in ("R", "G", "B", "grey", "H", "S", "V"):
        nuclear, everything = [], []
        for sample in samples:
            channel = _channel(sample.image, name)
            nuclear.append(np.bincount(channel[sample.mask > 0], minlength=256))
            everything.append(np.bincount(channel.ravel(), minlength=256))
        scores = []
        for order in (slice(None), slice(None, None, -1)):
            hit, taken = np.cumsum(np.array(nuclear)[:, order], axis=1), np.cumsum(np.array(everything)[:, order], axis=1)
            truth = hit[:, -1:]
            scores += [(2 * hit.sum(0) / (taken.sum(0) + truth.sum())).max(), (2 * hit / (taken + truth)).mean(0).max()]
        best[name] = max(scores)
    return best


def test_no_single_threshold_finds_the_nuclei():
    scores = _best_threshold_dice(_images(slides=range(8, 12), per_slide=6))
    assert max(scores.values()) < 0.78, scores
    assert max(scores.values()) > 0.50, scores  # nuclei are the dark and blue things, nevertheless


def test_the_threshold_search_finds_what_a_threshold_can_find():
    sample = synthesize(seed=0, slide=0, index=0, image_size=(64, 64))
    painted = sample._replace(image=np.where(sample.mask[..., None] > 0, 90, 200).astype(np.uint8).repeat(3, axis=-1))
    assert _best_threshold_dice([painted])["grey"] == 1


@pytest.mark.parametrize("arguments", [{"seed": -1}, {"slide": 2**63}, {"image_size": (31, 64)}, {"image_size": (64, 5000)}, {"image_size": (64,)}])
def test_numbers_out_of_range_are_refused_by_name(arguments):
    with pytest.raises(UserError, match=next(iter(arguments))):
        synthesize(**{"seed": 0, "slide": 0, "index": 0, "image_size": (64, 64)} | arguments)
