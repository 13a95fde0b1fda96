"""Variables on disk: there whole or not at all, damage is seen, and nothing goes where it does not fit."""

import hashlib
import json
import os
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from flexseg.distribution.strategies import open_replicas
from flexseg.errors import UserError
from flexseg.runs import checkpoint_format
from flexseg.runs.checkpoint_format import damage, read_checkpoint, recover, write_checkpoint
from flexseg.runs.chosen_weights import read_weights
from flexseg.runs.variables import assign, model_variables, named_arrays
from flexseg.training.starting_weights import load_starting_weights


def network(classes=2, *, filters=3, dropout=0.1):
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(filters, 3)(x))
    return keras.Model(inputs, keras.layers.Conv2D(classes, 1, name="logits")(keras.layers.Dropout(dropout)(x)))


@pytest.fixture(scope="module")
def one():
    return open_replicas(global_batch_size=1)


def parts(value: float):
    return {"model": {"0000 a/kernel": np.full((2, 3), value, np.float32)}, "optimizer": {"0000 iterations": np.array(7, np.int64)}}


@pytest.fixture
def folder(tmp_path):
    write_checkpoint(tmp_path / "best", parts(1.0), {"epoch": 1, "value": 0.1})
    return tmp_path / "best"


def value_in(folder) -> float:
    return float(read_checkpoint(folder)[0]["model"]["0000 a/kernel"][0, 0])


def test_what_is_read_is_what_was_written_to_the_bit(folder):
    arrays, facts = read_checkpoint(folder)
    assert facts == {"epoch": 1, "value": 0.1}
    for name, part in parts(1.0).items():
        for key, array in part.items():
            assert arrays[name][key].dtype == array.dtype
            np.testing.assert_array_equal(arrays[name][key], array)
    assert damage(folder) == ""
    assert sorted(p.name for p in folder.parent.iterdir()) == ["best"], "nothing else is left beside it"


def test_the_checksums_are_those_of_sha256sum(folder):
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("call", [1, 2])
def test_a_write_killed_at_either_rename_leaves_the_old_weights_readable(folder, monkeypatch, call):
    calls, rename = [], Path.rename

    def killed(self, target):
        calls.append(target)
        if len(calls) == call:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(folder, parts(2.0), {"epoch": 2})
    monkeypatch.undo()
    recover(folder)  # what the next start does
    assert value_in(folder) == 1.0
    write_checkpoint(folder, parts(3.0), {"epoch": 3})
    assert value_in(folder) == 3.0
    assert sorted(p.name for p in folder.parent.iterdir()) == ["best"]


@pytest.mark.parametrize("function", ["savez", "fsync"])
def test_a_full_disk_leaves_the_old_weights_as_they_are(folder, monkeypatch, function):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((np, "savez") if function == "savez" else (os, "fsync")), full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(folder, parts(2.0), {"epoch": 2})
    monkeypatch.undo()
    assert damage(folder) == "" and value_in(folder) == 1.0


def test_after_a_whole_replacement_recover_does_nothing(folder):
    write_checkpoint(folder, parts(2.0), {"epoch": 2})
    recover(folder)
    assert value_in(folder) == 2.0
    recover(folder.with_name("never_written"))
    assert not folder.with_name("never_written").exists()


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


EMPTY = hashlib.sha256(b"").hexdigest()


def list_rows(folder, keep, *more):
    rows = [line for line in (folder / "SHA256SUMS").read_text().splitlines() if keep(line)]
    (folder / "SHA256SUMS").write_text("".join(f"{row}\n" for row in [*rows, *more]))


def keep_rows(folder, count):
    """A list of checksums cut off at the end of a line, and the files that it no longer names gone."""
    rows = (folder / "SHA256SUMS").read_text().splitlines()
    list_rows(folder, rows[:count].__contains__)
    for row in rows[count:]:
        (folder / row.split("  ")[1]).unlink()


DAMAGES = {
    "one bit of the arrays": lambda f: flip(f / "model.npz"),
    "one bit of the facts": lambda f: flip(f / "facts.json"),
    "cut off": lambda f: os.truncate(f / "optimizer.npz", 40),
    "empty": lambda f: os.truncate(f / "model.npz", 0),
    "a file gone": lambda f: (f / "model.npz").unlink(),
    "no checksums": lambda f: (f / "SHA256SUMS").unlink(),
    "empty checksums": lambda f: os.truncate(f / "SHA256SUMS", 0),
    "garbled checksums": lambda f: (f / "SHA256SUMS").write_bytes(b"\xff\xfe nonsense"),
    "checksums cut off": lambda f: os.truncate(f / "SHA256SUMS", 30),
    "one checksum left": lambda f: keep_rows(f, 1),
    "two checksums left": lambda f: keep_rows(f, 2),
    "a file without a checksum": lambda f: np.savez(f / "more.npz", a=np.zeros(3)),
    "facts only": lambda f: ([path.unlink() for path in f.glob("*.npz")], list_rows(f, lambda line: "facts" in line)),
    "a checksum of a file elsewhere": lambda f: (f.with_name("elsewhere").touch(), list_rows(f, lambda _: True, f"{EMPTY}  ../elsewhere")),
    "a checksum of a folder": lambda f: ((f / "more.npz").mkdir(), list_rows(f, lambda _: True, f"{EMPTY}  more.npz")),
    "a checksum of what never ends": lambda f: (os.mkfifo(f / "more.npz"), list_rows(f, lambda _: True, f"{EMPTY}  more.npz")),
    "checksums that never end": lambda f: ((f / "SHA256SUMS").unlink(), os.mkfifo(f / "SHA256SUMS")),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_seen_and_refused(folder, kind):
    DAMAGES[kind](folder)
    assert damage(folder)
    with pytest.raises(UserError, match="expected whole weights written by flexseg"):
        read_checkpoint(folder)


def test_a_missing_folder_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="best: expected whole weights.*no such folder"):
        read_checkpoint(tmp_path / "best")


@pytest.fixture
def replaced_while_read(monkeypatch):
    """trainer(what): `what` is done once, before the next archive is opened."""

    def trainer(what):
        load = np.load

        def loaded(*given, **options):
            monkeypatch.setattr(np, "load", load)
            what()
            return load(*given, **options)

        monkeypatch.setattr(np, "load", loaded)

    return trainer


def test_weights_replaced_while_they_are_read_are_refused(folder, replaced_while_read):
    replaced_while_read(lambda: write_checkpoint(folder, parts(2.0), {"epoch": 2}))
    with pytest.raises(UserError, match="others, which came while they were read"):
        read_checkpoint(folder)
    assert value_in(folder) == 2.0


@pytest.mark.parametrize("after", ["damage", "_facts"])
def test_weights_that_go_while_they_are_read_are_refused(folder, monkeypatch, after):
    function = getattr(checkpoint_format, after)

    def gone(_):
        found = function(folder)
        folder.rename(folder.with_name("elsewhere"))
        return found

    monkeypatch.setattr(checkpoint_format, after, gone)
    with pytest.raises(UserError, match="expected whole weights.*no such folder"):
        read_checkpoint(folder)


@pytest.mark.parametrize("reader", ["evaluate", "init_from"])
def test_a_run_that_is_training_is_read_again(one, tmp_path, replaced_while_read, reader):
    model, best = network(), tmp_path / "best"

    def write(value):
        arrays = {name: np.full_like(array, value) for name, array in named_arrays(one, model_variables(model)).items()}
        write_checkpoint(best, {"model": arrays}, {"epoch": value})

    write(1)
    replaced_while_read(lambda: write(2))
    if reader == "evaluate":
        where, arrays, facts = read_weights(types.SimpleNamespace(best=best), "best")
        assert (where, facts) == (best, {"epoch": 2})
        assign(one, model_variables(model), arrays["model"], where=where)
    else:
        load_starting_weights(model, one, init_from=str(tmp_path))
    assert all((v.numpy() == 2).all() for v in model_variables(model))


def test_an_archive_of_pickled_objects_is_refused_and_not_executed(folder):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(folder / "executed"),))

    np.savez(folder / "model.npz", bomb=np.array([Bomb()], object))
    from flexseg.runs.checkpoint_format import _digest

    sums = "".join(f"{_digest(p)}  {p.name}\n" for p in sorted(folder.iterdir()) if p.name != "SHA256SUMS")
    (folder / "SHA256SUMS").write_text(sums)
    assert damage(folder) == ""
    with pytest.raises(UserError):
        read_checkpoint(folder)
    assert not (folder / "executed").exists()


def test_a_model_survives_the_way_through_a_folder(one, tmp_path):
    first, second = network(), network()
    for v in model_variables(first):
        v.assign(np.random.default_rng(0).normal(size=v.shape))
    write_checkpoint(tmp_path / "w", {"model": named_arrays(one, model_variables(first))}, {})
    assert assign(one, model_variables(second), read_checkpoint(tmp_path / "w")[0]["model"], where="here") == []
    images = np.random.default_rng(1).uniform(size=(2, 8, 8, 3))
    np.testing.assert_array_equal(first(images), second(images))


def test_moving_statistics_belong_to_a_model_and_dropout_seeds_do_not(one):
    names = list(named_arrays(one, model_variables(network())))
    assert sum("moving" in name for name in names) == 2
    assert not any("seed" in name for name in names)
    assert names == sorted(names), "the archive's order is the variables' order"


def test_variables_are_written_to_every_replica():
    two = open_replicas(global_batch_size=2, logical_cpus=2)
    with two.scope():
        model = network()
    arrays = {name: np.full_like(array, 0.25) for name, array in named_arrays(two, model_variables(model)).items()}
    assign(two, model_variables(model), arrays, where="here")
    for v in model_variables(model):
        for value in two.local(v.value):
            np.testing.assert_array_equal(value.numpy(), np.full(v.shape, 0.25, np.float32))


def test_another_shape_is_refused_by_the_variables_name(one):
    arrays = named_arrays(one, model_variables(network(filters=3)))
    with pytest.raises(UserError, match=r"here: expected .*kernel of shape \[3, 3, 3, 5\], found .*of shape \[3, 3, 3, 3\]"):
        assign(one, model_variables(network(filters=5)), arrays, where="here")


def test_another_number_of_variables_is_refused(one):
    arrays = named_arrays(one, model_variables(network()))
    deeper = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(3, 3)])
    with pytest.raises(UserError, match="here: expected 2 variables, as this model has, found 8"):
        assign(one, model_variables(deeper), arrays, where="here", other_shapes=True)


def test_another_kind_of_variable_of_the_same_shape_is_refused(one):
    arrays = named_arrays(one, model_variables(network()))
    swapped = {name.replace("/gamma", "/beta" if "gamma" in name else ""): array for name, array in arrays.items()}
    with pytest.raises(UserError, match="gamma"):
        assign(one, model_variables(network()), swapped, where="here", other_shapes=True)


def test_another_head_keeps_the_rest_and_is_named(one):
    source, target = network(classes=2), network(classes=5)
    for v in model_variables(source):
        v.assign(np.full(v.shape, 0.5))
    head = [v.numpy() for v in target.get_layer("logits").variables]
    left = assign(one, model_variables(target), named_arrays(one, model_variables(source)), where="here", other_shapes=True)
    assert left == ["logits/kernel", "logits/bias"]
    for before, v in zip(head, target.get_layer("logits").variables, strict=True):
        np.testing.assert_array_equal(v.numpy(), before)
    assert all((v.numpy() == 0.5).all() for v in model_variables(target) if not v.path.startswith("logits"))


def test_layers_that_keras_numbers_anew_still_match(one):
    first, second = network(), network()
    assert model_variables(first)[0].path != model_variables(second)[0].path
    assign(one, model_variables(second), named_arrays(one, model_variables(first)), where="here")


def test_facts_are_plain_json(folder):
    assert json.loads((folder / "facts.json").read_text()) == {"epoch": 1, "value": 0.1}
    assert tf.io.gfile.glob(str(folder / "*.npz"))


def test_the_facts_of_training_keep_the_names_that_0_1_gave_them_on_disk(tmp_path):
    facts = {"step": 3, "epochs_done": 1, "epoch_metrics": {"loss": [0.5, 2.0]}, "early_stopping": {"waited": 1}, "plateau": {}, "skipped": 0}
    write_checkpoint(tmp_path / "a", {"model": {"0000 x": np.zeros(1)}}, facts)
    assert json.loads((tmp_path / "a" / "facts.json").read_text()).keys() == {"step", "epochs_done", "meter", "best", "plateau", "skipped"}
    assert read_checkpoint(tmp_path / "a")[1] == facts
