"""A run of release 0.1.0, kept in tests/data/run_0_1: its arrays are restored as they were, its masks agree, and it is resumed under the new names."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import toy_runs
from PIL import Image

from flexseg.config.renamed import RENAMED
from flexseg.data.dataset import BuiltDataset
from flexseg.errors import UserError
from flexseg.inference.whole_case import Resize
from flexseg.runs.checkpoint_format import checkpoint_folders, read_checkpoint
from flexseg.runs.variables import model_variables
from flexseg.training.opened_run import open_run

OLD = Path(__file__).parent / "data" / "run_0_1"
IMAGES = sorted((OLD / "images").glob("*.png"))
NEW = (  # the command that began the run, in the words of 0.2.0
    "train.deterministic=True", "train.epochs=3", "train.steps_per_epoch=5", "augment.enabled=True", "train.checkpoint_minutes=0",
    "train.steps_per_execution=2", "flex_unet.gradient_checkpointing=True", "flex_unet.dropout_rate=0.1", "flex_unet.normalization='batch'",
    "optimizer.ema_momentum=0.9",
)  # fmt: skip


@pytest.fixture
def run(tmp_path) -> Path:
    """A copy of the run directory."""
    return Path(shutil.copytree(OLD / "run", tmp_path / "run"))


@pytest.fixture
def dataset(tmp_path) -> BuiltDataset:
    shutil.copytree(OLD / "data", tmp_path / "data")
    return BuiltDataset(tmp_path / "data" / "image_mask_folder" / "old" / "1.0.0")


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_every_array_is_restored_as_it_was(run, checkpoint):
    folder = run / "best" if checkpoint == "best" else checkpoint_folders(run / "checkpoints")[-1]
    parts, facts = read_checkpoint(folder)
    expected = dict(parts["model"])
    for name, average in parts.get("ema", {}).items():  # the EMA in the place of trainable weights
        path = name.split(" ", 1)[1].removeprefix("average/").split(":")[0]
        expected[next(own for own in expected if own.endswith(f" {path}"))] = average
    with toy_runs.command(), open_run(str(run), gin_param=[], checkpoint=checkpoint, replicas=0, logical_cpus=0) as opened:
        found = [variable.numpy() for variable in model_variables(opened.assembly.model)]
        assert opened.weights["step"] == facts["step"] == (5 if checkpoint == "best" else 7)
    assert len(found) == len(expected)
    for array, (name, wanted) in zip(found, expected.items(), strict=True):
        assert array.dtype == wanted.dtype and array.tobytes() == wanted.tobytes(), name


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_masks_are_those_of_0_1_except_where_two_probabilities_are_alike(run, tmp_path, checkpoint):
    written = toy_runs.predict(run, images=IMAGES, output=str(tmp_path / "masks"), checkpoint=checkpoint)
    with np.load(OLD / "predicted.npz", allow_pickle=False) as predicted:
        for image, path in zip(IMAGES, sorted(written), strict=True):
            mask, before = np.asarray(Image.open(path)), predicted[f"{checkpoint} {image.stem} mask"]
            scores = predicted[f"{checkpoint} {image.stem} probabilities"]
            merger = Resize(scores.shape[:2]).merger(mask.shape[:2])
            merger.aggregate(tf.constant(scores))
            scores = merger.finalize().numpy()
            clear = np.abs(scores[..., 0] - scores[..., 1]) >= 1e-3
            assert mask.shape == before.shape and clear.mean() > 0.5
            np.testing.assert_array_equal(mask[clear], before[clear])


def test_it_is_resumed_under_the_new_names(run, dataset):
    said = toy_runs.train(dataset, run, *NEW)
    assert "resumed after epoch 1, step 7" in said and "ended: epochs" in said
    text = (run / "config.gin").read_text()
    assert "train.steps_per_execution = 2" in text and not any(old in text for old in RENAMED)


def test_another_value_of_a_renamed_binding_is_a_difference_under_its_new_name(run, dataset):
    with pytest.raises(UserError, match="flex_unet.gradient_checkpointing: here False, in the run True"):
        toy_runs.train(dataset, run, *NEW, "flex_unet.gradient_checkpointing=False")


def test_old_names_are_refused_where_they_are_typed_or_stand_in_a_file_of_the_user_s(run, dataset, tmp_path):
    for old, new in RENAMED.items():
        with pytest.raises(UserError, match=f"expected the name {new}, found {old}, its name before 0.2.0. To fix it: write {new}"):
            toy_runs.train(dataset, tmp_path / "other", f"{old}=1")
        (tmp_path / "mine.gin").write_text(f"\n{old} = 1\n")
        with pytest.raises(UserError, match=rf"mine.gin:2: expected the name {new}"):
            toy_runs.train(dataset, tmp_path / "other", gin_file=[str(tmp_path / "mine.gin")])
    assert not (tmp_path / "other").exists()
    with pytest.raises(UserError, match="write train.steps_per_execution"):  # beside a run's own file, which may hold it
        toy_runs.evaluate(run, split="valid", gin_param=["train.steps_per_call=1"])
