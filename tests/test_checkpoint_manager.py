"""Checkpoints: everything a run must remember comes back; a damaged one gives way to the one before."""

import os

import keras
import numpy as np
import pytest

from flexseg.distribution.loss_scale import LossScale
from flexseg.distribution.strategies import open_replicas
from flexseg.errors import UserError
from flexseg.runs.checkpoint_manager import CheckpointManager
from flexseg.training.optimizers import OptimizerSettings


class Parts:
    """A model, its optimizer and its loss scale, of random values."""

    def __init__(self, directory, seed, *, keep=2, count=1, filters=2):
        self.replicas = open_replicas(global_batch_size=count, logical_cpus=count if count > 1 else 0)
        with self.replicas.scope():
            inputs = keras.Input((4, 4, 1))
            self.model = keras.Model(inputs, keras.layers.BatchNormalization()(keras.layers.Conv2D(filters, 3)(inputs)))
            self.optimizer = OptimizerSettings(learning_rate=0.1).build()
            self.optimizer.build(self.model.trainable_variables)
            self.scale = LossScale(dynamic=True, growth_steps=5)
        self.state = CheckpointManager(directory, self.replicas, model=self.model, optimizer=self.optimizer, loss_scale=self.scale, keep=keep)
        self.randomize(seed)

    def variables(self):
        return [*self.model.variables, *self.optimizer.variables, self.scale.scale, self.scale.good_steps]

    def randomize(self, seed):
        random = np.random.default_rng(seed)
        for v in self.variables():
            self.replicas.write(v, random.integers(1, 1000, tuple(v.shape)).astype(str(getattr(v.dtype, "name", v.dtype))))

    def values(self):
        return [self.replicas.read(v) for v in self.variables()]


def same(some, others):
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize("count", [1, 2])
def test_model_optimizer_loss_scale_and_host_state_come_back(tmp_path, count):
    saved = Parts(tmp_path, 1)
    folder = saved.state.save(step=12, host={"epochs_done": 3, "epoch_metrics": {"loss": [0.1, 2.0]}})
    assert folder.name == "step_000000012"
    fresh = Parts(tmp_path, 2, count=count)  # also with another number of replicas
    assert not same(saved.values(), fresh.values())
    assert fresh.state.restore() == {"step": 12, "epochs_done": 3, "epoch_metrics": {"loss": [0.1, 2.0]}}
    assert same(saved.values(), fresh.values())
    assert len(fresh.optimizer.variables) > 6, "the moments are among them"


def test_a_fresh_run_has_nothing_to_restore(tmp_path):
    parts = Parts(tmp_path / "checkpoints", 1)
    before = parts.values()
    assert parts.state.restore() is None
    assert same(before, parts.values())
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("keep", [1, 3])
def test_the_latest_stay(tmp_path, keep):
    parts = Parts(tmp_path, 1, keep=keep)
    for step in (5, 10, 100, 20, 1000):
        parts.state.save(step=step, host={})
    assert [folder.name for folder in parts.state.folders()] == [f"step_{s:09d}" for s in (5, 10, 20, 100, 1000)[-keep:]]


def damaged(tmp_path, *steps):
    for step in steps:
        os.truncate(tmp_path / f"step_{step:09d}" / "model.npz", 50)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_that_is_said(tmp_path, capsys):
    parts = Parts(tmp_path, 1, keep=3)
    parts.state.save(step=1, host={})
    older = parts.values()
    parts.randomize(2)
    parts.state.save(step=2, host={})
    parts.state.save(step=3, host={})
    damaged(tmp_path, 2, 3)
    fresh = Parts(tmp_path, 5)
    assert fresh.state.restore()["step"] == 1
    assert same(older, fresh.values())
    said = capsys.readouterr().out
    assert said.count("is damaged (model.npz does not have its checksum)") == 2
    assert said.index("step_000000003") < said.index("step_000000002")


def test_when_every_checkpoint_is_damaged_the_run_is_refused(tmp_path):
    parts = Parts(tmp_path, 1)
    parts.state.save(step=1, host={})
    parts.state.save(step=2, host={})
    damaged(tmp_path, 1, 2)
    with pytest.raises(UserError, match="expected a whole checkpoint, found 2 damaged ones"):
        Parts(tmp_path, 5).state.restore()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    Parts(tmp_path, 1, filters=2).state.save(step=1, host={})
    with pytest.raises(UserError, match=r"step_000000001: expected .* of shape \[3, 3, 1, 3\]"):
        Parts(tmp_path, 1, filters=3).state.restore()


def test_a_save_cut_off_between_its_two_renames_is_recovered(tmp_path):
    parts = Parts(tmp_path, 1)
    folder = parts.state.save(step=7, host={"epochs_done": 1})
    folder.rename(folder.with_name(f".{folder.name}.old"))  # the state after the first rename of a second save of step 7
    assert Parts(tmp_path, 2).state.restore() == {"step": 7, "epochs_done": 1}


def test_what_a_killed_save_left_half_written_is_not_taken_for_a_checkpoint(tmp_path):
    parts = Parts(tmp_path, 1)
    parts.state.save(step=7, host={})
    half = tmp_path / ".step_000000009.writing"
    half.mkdir()
    (half / "model.npz").write_bytes(b"PK")
    assert Parts(tmp_path, 2).state.restore() == {"step": 7}


def test_with_keep_one_a_good_checkpoint_is_not_given_up_for_a_damaged_later_one(tmp_path):
    parts = Parts(tmp_path, 1, keep=2)
    parts.state.save(step=5, host={})
    parts.state.save(step=9, host={})
    damaged(tmp_path, 9)
    resumed = Parts(tmp_path, 2, keep=1)
    assert resumed.state.restore()["step"] == 5
    resumed.state.save(step=7, host={})
    assert Parts(tmp_path, 3).state.restore()["step"] == 7
