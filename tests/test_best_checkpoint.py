"""The best weights of a run that goes back to a checkpoint: never those of steps that it gave up, as long as there are others."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from flexseg.distribution.replicas import Replicas
from flexseg.runs import checkpoint_format
from flexseg.runs.best_checkpoint import BestCheckpoint
from flexseg.runs.checkpoint_format import read_checkpoint


@pytest.fixture
def model():
    inputs = keras.Input([2])
    return keras.Model(inputs, keras.layers.Dense(1, use_bias=False)(inputs))


@pytest.fixture
def best(tmp_path, model):
    """write(step): weights that are all equal to their step are the best ones; with the rest of BestCheckpoint beside it."""
    best = BestCheckpoint(tmp_path / "best", Replicas(tf.distribute.get_strategy(), "one"), model)
    write = best.write

    def write_step(step):
        model.layers[-1].kernel.assign(np.full([2, 1], step))
        write({"epoch": step, "step": step})

    best.write = write_step
    return best


def present(tmp_path) -> int:
    arrays, facts = read_checkpoint(tmp_path / "best")
    (values,) = arrays["model"].values()
    assert np.all(values == facts["step"]), "weights and facts belong together"
    return facts["step"]


@pytest.mark.parametrize(
    ("story", "step", "expected"),
    [
        ("3 checkpoint", 3, 3),
        ("3 checkpoint 6", 4, 3),  # 6 was given up
        ("3 checkpoint 6 9", 4, 3),  # and 9, which took the place of 6
        ("3 checkpoint 6 checkpoint", 6, 6),
        ("3 checkpoint 6 checkpoint 9", 6, 6),
        ("6", 0, 6),  # no checkpoint was ever written: there is nothing better
        ("3 checkpoint 6 checkpoint", 3, 6),  # back to the checkpoint before a damaged one: 3 is gone
    ],
)
def test_the_best_weights_are_those_that_the_checkpoint_knew(best, tmp_path, story, step, expected):
    for word in story.split():
        best.checkpointed() if word == "checkpoint" else best.write(int(word))
    best.restored(step=step)
    assert present(tmp_path) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["best"], "nothing stays beside it"


def test_a_run_that_was_cut_off_between_the_two_renames_finds_the_weights_before(best, tmp_path):
    best.write(3)
    best.checkpointed()
    best.write(6)
    (tmp_path / "best").rename(tmp_path / "elsewhere")
    best.restored(step=4)
    assert present(tmp_path) == 3


@pytest.mark.parametrize("moment", ["write", "restore"])
def test_a_kill_while_weights_are_removed_leaves_whole_ones(best, tmp_path, monkeypatch, moment):
    for step in (3, 6):
        best.write(step)
        if step == 3:
            best.checkpointed()

    def half(folder, **_):
        (folder / "model.npz").unlink(missing_ok=True)
        if "removing" in folder.name and folder.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_format.shutil, "rmtree", half)
    with pytest.raises(KeyboardInterrupt):
        best.write(9) if moment == "write" else best.restored(step=4)
    monkeypatch.undo()
    assert checkpoint_format.whole_folder(tmp_path / "best").is_dir() and not checkpoint_format.damage(
        checkpoint_format.whole_folder(tmp_path / "best")
    )
    best.restored(step=4)
    assert present(tmp_path) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_damaged_best_weights_give_way_to_those_before(best, tmp_path):
    best.write(3)
    best.checkpointed()
    best.write(6)
    (tmp_path / "best" / "model.npz").write_bytes(b"garbage")
    assert checkpoint_format.whole_folder(tmp_path / "best").name == ".best.old"
    best.restored(step=6)
    assert present(tmp_path) == 3


def test_damaged_best_weights_are_left_to_whoever_reads_them(best, tmp_path):
    best.write(3)
    (tmp_path / "best" / "model.npz").write_bytes(b"garbage")
    best.restored(step=1)
    assert (tmp_path / "best").is_dir()
