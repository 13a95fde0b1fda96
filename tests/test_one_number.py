"""One number: the logged validation Dice, `flexseg evaluate`, and a score of the PNGs that `flexseg predict` writes from the source files."""

from pathlib import Path

import numpy as np
import pytest
import toy_runs
import toys
from PIL import Image

from flexseg.files.csv_log import read_rows

SIZES = {
    "train/t0": (40, 56), "train/t1": (32, 32), "train/t2": (61, 33), "train/t3": (48, 48), "train/t4": (37, 64), "train/deep0": (44, 52),
    "valid/v0": (40, 56), "valid/v1": (32, 32), "valid/deep": (33, 47), "valid/turned": (60, 36), "valid/v4": (23, 64),
}  # fmt: skip


def disc(name: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc in noise, uint8 [h, w], and its mask in 0 and 255."""
    random = np.random.default_rng(list(name.encode()))
    rows, columns = np.mgrid[: size[0], : size[1]]
    centre, radius = [random.uniform(0.3, 0.7) * side for side in size], random.uniform(0.2, 0.35) * min(size)
    inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
    return (random.uniform(0, 150, size) + 80 * inside).astype(np.uint8), (255 * inside).astype(np.uint8)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Mixed sizes; RGB PNG, and among training and validation a 16-bit TIFF, in validation a JPEG that its EXIF tag turns by 90°."""
    folder = tmp_path_factory.mktemp("one_number") / "source"
    for name, size in SIZES.items():
        grey, mask = disc(name, size)
        if "deep" in name:  # 16 bits, far from filling them
            toys.write_case(folder, name, Image.fromarray(grey.astype(np.uint16) * 37 + 1000), mask, ".tif")
        elif "turned" in name:
            exif = Image.Exif()
            exif[0x0112] = 6  # to be shown turned by 90° clockwise
            toys.write_case(folder, name, np.rot90(np.stack([grey] * 3, -1)).copy(), mask, ".jpg", exif=exif, quality=95)
        else:
            toys.write_case(folder, name, np.stack([grey, grey // 2, 255 - grey], -1), mask)
    return folder


@pytest.fixture(scope="module")
def dataset(source):
    return toys.build(source.parent, source=source, name="mixed")


def score(folder: Path, truths: Path) -> float:
    """The mean Dice of the foreground, by the book: every case its own group, one foreground class."""
    values = []
    for path in sorted(truths.iterdir()):
        truth, prediction = np.asarray(Image.open(path)) > 0, np.asarray(Image.open(folder / path.name)) > 0
        assert truth.shape == prediction.shape, "a mask has its image's own size"
        both = truth.sum() + prediction.sum()
        values += [2 * (truth & prediction).sum() / both] if both else []
    return float(np.mean(values))


RESIZE = ("input.fit='resize'",)
CROP = ("input.fit='random_crop'", "input.eval_fit='pad'", "input.foreground_crop_probability=0.5")
BFLOAT16 = (*RESIZE, "train.precision='mixed_bfloat16'")


@pytest.mark.parametrize(
    ("fit", "count"),
    [
        (RESIZE, 0),
        (CROP, 2),
        pytest.param(BFLOAT16, 0, marks=pytest.mark.slow),
        pytest.param(RESIZE, 2, marks=pytest.mark.slow),
        pytest.param(CROP, 0, marks=pytest.mark.slow),
    ],
)
def test_log_evaluation_and_prediction_agree(source, dataset, tmp_path, fit, count):
    run = tmp_path / "run"
    learn = ("train.epochs=1", "train.steps_per_epoch=60", "optimizer.learning_rate=0.01", "flex_unet.base_filters=4", "objective.loss='ce_dice'")
    toy_runs.train(dataset, run, *learn, *fit, logical_cpus=count)
    header, rows = read_rows(run / "train_metrics.csv")
    logged = float(rows[-1][header.index("val_mean_foreground_dice")])
    assert 0.05 < logged < 0.995, "a model that knows nothing or everything would prove nothing"

    report, _ = toy_runs.evaluate(run, split="valid", checkpoint="last", logical_cpus=count)
    assert report["mean_foreground_dice"] == pytest.approx(logged, abs=1e-4)
    assert report["cases"] == 5 and report["metrics"]["mean_foreground_dice"] == report["mean_foreground_dice"]

    for devices in {0, count}:
        masks = tmp_path / f"masks_{devices}"
        written = toy_runs.predict(run, images=[source / "valid" / "images"], output=str(masks), checkpoint="last", logical_cpus=devices)
        assert sorted(path.stem for path in written) == ["deep", "turned", "v0", "v1", "v4"]
        assert score(masks, source / "valid" / "masks") == pytest.approx(logged, abs=1e-4)
