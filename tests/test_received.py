"""What somebody sends is data: runs, datasets and files that were made to do harm, and what is done with them. See docs/security.md."""

import json
import os
import shutil
import sys

import cv2
import numpy as np
import pytest
import toy_runs
import toys

from flexseg.errors import UserError, printable
from flexseg.files.atomic import open_to_append
from flexseg.files.label_map import LabelMap
from flexseg.files.manifest import Manifest
from flexseg.files.names import below, unusable
from flexseg.runs.directory import RunDirectory

pytestmark = pytest.mark.xdist_group("received")  # the run is trained once

BAD_NAMES = ["../up", "/tmp/absolute", "..", ".", "", "a/b", "a\\b", "line\nbreak", "\x1b[2Jcleared", "\u202etxt.exe", "a" * 300, 7, None]


@pytest.fixture
def dataset(toy, tmp_path):
    """A copy of the toy dataset that may be damaged."""
    shutil.copytree(toy.directory, tmp_path / "data" / "image_mask_folder" / "toy" / "1.0.0")
    return tmp_path / "data"


def edit(path, change):
    """Rewrites a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def manifest_of(data):
    return next(data.rglob("manifest.json"))


def files_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Names


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
@pytest.mark.parametrize("column", ["case_id", "files"])
def test_a_name_in_a_manifest_that_leads_out_of_a_folder_is_refused(dataset, column, name):
    def change(content):
        content["splits"]["valid"][column][0] = name

    edit(manifest_of(dataset), change)
    with pytest.raises(UserError, match="manifest.json: expected") as caught:
        Manifest.load(manifest_of(dataset))
    assert printable(str(caught.value)) == str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if isinstance(name, str)], ids=repr)
def test_a_split_or_a_dataset_of_such_a_name_is_refused(dataset, name):
    original = manifest_of(dataset).read_text()
    edit(manifest_of(dataset), lambda content: content["splits"].update({name: content["splits"]["valid"]}))
    with pytest.raises(UserError, match="manifest.json: expected"):
        Manifest.load(manifest_of(dataset))
    manifest_of(dataset).write_text(original)
    edit(manifest_of(dataset), lambda content: content.update(dataset=name))
    with pytest.raises(UserError, match="manifest.json: expected"):
        Manifest.load(manifest_of(dataset))


def test_two_cases_of_one_name_are_refused(dataset):
    def change(content):
        content["splits"]["valid"]["case_id"][0] = content["splits"]["train"]["case_id"][0]

    edit(manifest_of(dataset), change)
    with pytest.raises(UserError, match="expected every case once, found 'train00' twice"):
        Manifest.load(manifest_of(dataset))


def test_a_training_on_a_received_dataset_writes_no_picture_outside_of_its_run(dataset, tmp_path):
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"mine")
    edit(manifest_of(dataset), lambda content: content["splits"]["valid"]["case_id"].__setitem__(0, "../../../outside"))
    from flexseg.data.dataset import open_dataset

    with pytest.raises(UserError, match="a case that can be the name of a file"):
        open_dataset("toy", dataset)
    assert outside.read_bytes() == b"mine"


def test_every_writer_checks_that_it_stays_below_its_folder(tmp_path):
    for name in BAD_NAMES:
        assert unusable(name)
        with pytest.raises(UserError):
            below(tmp_path, name)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "pictures").symlink_to(tmp_path)
    with pytest.raises(UserError, match="a link that leads elsewhere"):
        below(tmp_path / "run", "pictures", "a.png")
    (tmp_path / "run" / "latest").symlink_to(tmp_path / "run")
    assert below(tmp_path / "run", "latest", "a.png") == tmp_path / "run" / "latest" / "a.png"


@pytest.mark.parametrize("name", ["evil\nname", "\x1b]0;title\x07", "\u202egnp"], ids=repr)
def test_a_class_name_cannot_steer_a_terminal_or_a_log(name):
    with pytest.raises(UserError, match="names without control characters") as caught:
        LabelMap(values={0: 0, 255: 1}, class_names=("background", name))
    said = str(caught.value).partition("\n  In call to configurable")[0]  # which gin appends
    assert printable(said) == said


# Links


@pytest.mark.parametrize(
    "name", ["log.txt", "train_losses.csv", "checkpoints", "best", "epoch_change_infer", "tensorboard", "evaluation", "summary.txt"]
)
def test_nothing_is_written_through_a_link_in_a_run_directory(toy, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "bashrc").write_text("mine\n")
    run = tmp_path / "run"
    run.mkdir()
    (run / name).symlink_to(outside if "." not in name else outside / "bashrc")
    before = files_of(outside)
    with pytest.raises(UserError, match="a link|other files and no config.gin"):
        toy_runs.train(toy, run)
    assert files_of(outside) == before


@pytest.mark.parametrize("kind", ["pipe", "socket", "loop of links"])
def test_a_run_that_holds_something_else_than_files_and_folders_is_refused(trained, tmp_path, kind):
    import socket

    run = tmp_path / "run"
    shutil.copytree(trained, run)
    path = run / "tensorboard" / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        place = os.getcwd()
        os.chdir(path.parent)  # the path of a socket is short
        try:
            socket.socket(socket.AF_UNIX).bind("x")
        finally:
            os.chdir(place)
    else:
        path.symlink_to(path)
    with pytest.raises(UserError, match="tensorboard/x: expected a file or (a )?folder"):
        toy_runs.evaluate(run, split="valid")


@pytest.mark.parametrize("name", ["log.txt", "best", "predictions", "evaluation"])
def test_a_received_run_with_a_link_is_not_evaluated(toy, tmp_path_factory, tmp_path, name, trained):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    outside = tmp_path / "outside"
    outside.mkdir()
    if (run / name).is_dir():
        shutil.move(run / name, outside / "moved")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside / "moved")
    with pytest.raises(UserError, match=f"{name}: expected a file or folder, or a link to one beside it, found a link that leads elsewhere"):
        toy_runs.evaluate(run, split="valid")


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("received") / "run"
    toy_runs.train(toy, workdir, "train.epochs=1")
    return workdir


def test_the_run_directory_itself_may_be_a_link(toy, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    assert "ended: epochs" in toy_runs.train(toy, tmp_path / "run", "train.epochs=1")


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe", "device"])
def test_a_file_that_is_appended_to_is_a_file(tmp_path, kind):
    target, path = tmp_path / "target", tmp_path / "log.txt"
    if "link" in kind:
        if kind == "link":
            target.write_bytes(b"mine")
        path.symlink_to(target)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(UserError, match="log.txt: expected a file to write to, found a (link|folder|pipe)"):
        open_to_append(path)
    assert not target.exists() or target.read_bytes() == b"mine"


# Modules


MODULE = "import pathlib\npathlib.Path('imported').touch()\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("received_models", "inside_models"):
        sys.modules.pop(name, None)


def received(trained, here, record):
    run = here / "run"
    shutil.copytree(trained, run)
    edit(run / "environment.json", lambda environment: environment.update(user_modules=record))
    return run


def record_of(file="/somewhere/received_models.py", sha256="0" * 64):
    return [{"file": file, "sha256": sha256}]


@pytest.mark.parametrize("how", ["evaluate", "predict", "init_from"])
def test_a_module_that_a_run_names_is_not_imported_unless_the_user_types_it(toy, trained, here, how):
    (here / "received_models.py").write_text(MODULE)
    run = received(trained, here, {"received_models": record_of()})
    images = toy.directory.parents[3] / "source" / "valid" / "images"
    calls = {
        "evaluate": lambda **more: toy_runs.evaluate(run, split="valid", **more),
        "predict": lambda **more: toy_runs.predict(run, images=[images], output=str(here / "masks"), **more),
    }
    if how == "init_from":
        toy_runs.train(toy, here / "new", "train.epochs=1", init_from=str(run))
        assert not (here / "imported").exists()
        return
    with pytest.raises(UserError) as caught:
        calls[how]()
    assert not (here / "imported").exists()
    said = str(caught.value)
    assert "received_models" in said and "/somewhere/received_models.py" in said and "000000" in said and "--user_module=received_models" in said
    assert "/somewhere" not in caught.value.cure
    calls[how](user_module=["received_models"])
    assert (here / "imported").exists()


def test_the_environment_variable_allows_it_too(toy, trained, here, monkeypatch):
    (here / "received_models.py").write_text(MODULE)
    run = received(trained, here, {"received_models": record_of()})
    monkeypatch.setenv("FLEXSEG_USER_MODULES", "received_models, ")
    toy_runs.evaluate(run, split="valid")
    assert (here / "imported").exists()


def test_nothing_is_imported_from_inside_a_run_directory(trained, here, monkeypatch):
    run = received(trained, here, {"inside_models": record_of()})
    (run / "inside_models.py").write_text(MODULE)
    monkeypatch.chdir(run)
    with pytest.raises(UserError, match="expected a module outside of the run directory"):
        toy_runs.evaluate(run, split="valid", user_module=["inside_models"])
    assert not (run / "imported").exists()


@pytest.mark.parametrize("record", [
    {"os; touch x": record_of()}, {"a b": record_of()}, {"../up": record_of()}, {"x": "y"}, {"x": [{"file": 3, "sha256": ""}]}, {"x": [[]]}, 7, "os", [7],
], ids=str)  # fmt: skip
def test_a_record_of_modules_that_is_none_is_refused(trained, here, record):
    run = received(trained, here, record)
    with pytest.raises(UserError, match="environment.json: expected what `flexseg train` wrote"):
        toy_runs.evaluate(run, split="valid")


def test_a_module_that_exits_is_a_mistake_of_one_line(here):
    from flexseg.user_modules import import_user_module

    (here / "received_models.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(UserError, match=r"found one that calls sys.exit\(0\)"):
        import_user_module("received_models")


# Files that change while they are read


@pytest.mark.parametrize("which", ["images", "masks"])
def test_a_file_that_changes_between_check_and_build_ends_the_build(tmp_path, monkeypatch, which):
    from flexseg.datasets import contents

    source = toys.write_folder(tmp_path / "source", {f"train/c{i}": (16, 16) for i in range(4)})
    target = source / "train" / which / "c2.png"
    original = contents.FileContents.example

    def exchanging(self, split, number):
        if number == 2:
            pixels = cv2.imread(str(target), cv2.IMREAD_UNCHANGED)
            cv2.imwrite(str(target), np.flipud(pixels))
        return original(self, split, number)

    monkeypatch.setattr(contents.FileContents, "example", exchanging)
    with pytest.raises(UserError, match=r"c2.png: expected the file that was checked, found another one: it changed while it was built"):
        toys.build(tmp_path, source=source, name="changing")
    assert not list((tmp_path / "data").rglob("*.tfrecord*")) and not list((tmp_path / "data").rglob("manifest.json"))


def test_control_characters_are_escaped_in_what_is_said():
    assert str(UserError("a\x1b[31m", expected="x\ny", found="\u202ez")) == "a\\x1b[31m: expected x y, found \\u202ez."
    assert RunDirectory("x").path.name == "x"


# Numbers, names and pictures that an earlier review found


@pytest.mark.parametrize(
    ("column", "number"), [("length", 2**61), ("length", 2**45), ("offset", 2**40), ("height", 2**40), ("width", 0), ("shard", 9)]
)
def test_a_number_in_a_manifest_that_no_shard_holds_is_refused_before_it_is_used(dataset, column, number):
    from flexseg.data.dataset import open_dataset

    edit(manifest_of(dataset), lambda content: content["splits"]["valid"][column].__setitem__(0, number))
    with pytest.raises(UserError, match="expected (a whole manifest|the record of case valid00)"):
        open_dataset("toy", dataset).records("valid")


def test_a_record_that_is_sound_and_holds_no_picture_names_shard_and_case(dataset):
    import tensorflow as tf

    from flexseg.data.dataset import open_dataset
    from flexseg.files.manifest import tfrecord_offsets

    built = open_dataset("toy", dataset)
    shard = built.directory / built.table("test").files[0]
    texts = {"image": b"no picture", "mask": b"none", "case_id": b"test00", "group_id": b"g"}
    features = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text])) for name, text in texts.items()}
    with tf.io.TFRecordWriter(str(shard)) as writer:
        writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    ((offset, length),) = tfrecord_offsets(shard)
    edit(manifest_of(dataset), lambda content: content["splits"]["test"].update(offset=[offset], length=[length]))
    built = open_dataset("toy", dataset)
    with pytest.raises(UserError, match=r"record 0 damaged \(case test00\)"), built.naming_damage("test"):
        built.records("test").example(0)


def test_an_export_takes_names_from_the_manifest_and_imports_nothing_of_the_dataset(dataset, tmp_path, monkeypatch):
    from flexseg.launch.export_images import export_images

    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path('executed').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    features = next(dataset.rglob("features.json"))
    features.write_text(features.read_text().replace("tensorflow_datasets.core.features.features_dict.FeaturesDict", "evil.Features"))
    assert export_images(dataset="toy", data_dir=str(dataset), split="valid", output=str(tmp_path / "out")) == 5
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"valid{number:02d}.png" for number in range(5)} and not (
        tmp_path / "executed"
    ).exists()


@pytest.mark.parametrize("precision", ["int8", "", "string", "float16", 7])
def test_a_precision_that_no_training_has_is_refused(trained, here, precision):
    run = received(trained, here, {})
    edit(run / "environment.json", lambda environment: environment.update(precision=precision))
    with pytest.raises(UserError, match="environment.json: expected what `flexseg train` wrote"):
        toy_runs.evaluate(run, split="valid")


def test_what_is_to_be_typed_is_quoted_for_a_shell(tmp_path):
    import shlex

    from flexseg.files.cases import discover

    for name in ("a", "b", "c"):
        toys.write_case(tmp_path, f"train/{name}", toys.picture(name, (8, 8)), toys.binary_mask(name, (8, 8)))
        mask = tmp_path / "train" / "masks" / f"{name}.png"
        mask.rename(mask.with_name(f"{name}'$(touch pwned)'.png"))
    with pytest.raises(UserError) as caught:
        discover(tmp_path)
    assert "--mask_pattern={case}'$(touch pwned)'" in shlex.split(caught.value.cure.removesuffix("."))


def test_a_folder_of_the_user_s_beside_the_checkpoints_is_no_checkpoint(tmp_path):
    from flexseg.runs.checkpoint_format import checkpoint_folders

    for name in ("step_000000500", "step_000000500_my_copy", "step_x", "step_1234567890"):
        (tmp_path / name).mkdir()
    assert [folder.name for folder in checkpoint_folders(tmp_path)] == ["step_000000500", "step_1234567890"]
