"""What stands in received files: arrays, JSON, gin, archives and tables. Each is held in one line, and nothing is allocated or run for it."""

import csv
import io
import json
import random
import shutil
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import toy_runs
import toys

from flexseg.config.configure import configure
from flexseg.errors import UserError, printable
from flexseg.evaluation.report import _csv
from flexseg.files.image_files import image_files
from flexseg.files.json_files import read_json
from flexseg.files.label_map import LabelMap
from flexseg.files.manifest import Manifest
from flexseg.files.own_folder import is_own_folder, make_own_folder, remove_own_folder
from flexseg.runs.checkpoint_format import part_file, read_checkpoint, write_checkpoint
from flexseg.runs.directory import RunDirectory

pytestmark = pytest.mark.xdist_group("received_content")  # the run is trained once

# Arrays


def rewritten(folder, write, part="model"):
    """The checkpoint with another archive, and right checksums."""
    import hashlib

    path = part_file(folder, part)
    write(path)
    sums = folder / "SHA256SUMS"
    lines = [line.split("  ") for line in sums.read_text().splitlines()]
    sums.write_text("".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for _, name in lines))
    return folder


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def archive_of(**members):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(f"{name}.npy", content)

    return write


ARRAYS = {
    "objects": lambda path: np.savez(path, a=np.array([{}, []], dtype=object)),
    "texts": lambda path: np.savez(path, a=np.array(["x"])),
    "bytes": lambda path: np.savez(path, a=np.array([b"x"])),
    "complex": lambda path: np.savez(path, a=np.zeros(3, np.complex64)),
    "dates": lambda path: np.savez(path, a=np.zeros(3, "datetime64[s]")),
    "records": lambda path: np.savez(path, a=np.zeros(3, [("x", "f4")])),
    "compressed": lambda path: np.savez_compressed(path, a=np.zeros(10_000_000, np.float32)),
    "a shape of gigabytes": archive_of(a=npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }")),
    "a negative shape": archive_of(a=npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }", bytes(16))),
    "a header that is code": archive_of(a=npy("__import__('os').system('touch /tmp/flexseg_attack')")),
    "a header of nothing": archive_of(a=b""),
    "a shape of text": archive_of(a=npy("{'descr': '<f4', 'fortran_order': False, 'shape': ('x',), }", bytes(16))),
    "no archive": lambda path: path.write_bytes(b"PK\x03\x04 no"),
    "an empty file": lambda path: path.write_bytes(b""),
    "a member that is no array": lambda path: archive_of(**{"a": b"import os"})(path),
}


@pytest.mark.parametrize("what", ARRAYS)
def test_an_archive_of_anything_but_plain_numbers_is_refused_before_it_is_read(tmp_path, what):
    folder = tmp_path / "best"
    write_checkpoint(folder, {"model": {"0000 a/kernel": np.zeros(3, np.float32)}}, {"epoch": 1})
    rewritten(folder, ARRAYS[what])
    tracemalloc.start()
    with pytest.raises(UserError, match="expected whole weights written by flexseg") as caught:
        read_checkpoint(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6 and printable(str(caught.value)) == str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(toy, tmp_path, trained, value):
    run = tmp_path / "run"
    shutil.copytree(trained, run)

    def spoil(path):
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        next(iter(arrays.values())).flat[0] = value
        np.savez(path, **arrays)

    rewritten(run / "best", spoil)
    with pytest.raises(UserError, match=r"best: expected finite numbers, found 1 values that are NaN or infinite in 0000 "):
        toy_runs.evaluate(run, split="valid")


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("content") / "run"
    toy_runs.train(toy, workdir, "train.epochs=1")
    return workdir


# JSON


def edited(text: str, draw: random.Random) -> str:
    """One random edit of a JSON text: a value, a key, a character or a piece."""
    content = json.loads(text)
    strange = [None, True, -1, 0, 1e308, 2**70, "", "../x", "\x1b[2J", [], {}, [[[]]], {"a": {}}, "x" * 1000, 0.5, float("nan")]
    for _ in range(draw.randint(1, 3)):
        node, path = content, []
        while isinstance(node, dict | list) and node and (not path or draw.random() < 0.7):
            key = draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node))
            path.append((node, key))
            node = node[key]
        if not path:
            continue
        parent, key = path[-1]
        how = draw.random()
        if how < 0.2:
            del parent[key]
        elif how < 0.3 and isinstance(parent, dict):
            parent[draw.choice(["x", "../up", "", "__class__"])] = parent.pop(key)
        else:
            parent[key] = draw.choice(strange)
    text = json.dumps(content)
    if draw.random() < 0.2:
        place = draw.randrange(len(text))
        text = text[:place] + draw.choice(["", "{", "\\u0000", "\ud800"[:0], '"', "[" * 2000]) + text[place + draw.randint(0, 5) :]
    return text


@pytest.mark.parametrize("seed", range(100))
def test_no_edit_of_a_manifest_ends_with_another_exception(toy, tmp_path, seed):
    path = tmp_path / "manifest.json"
    path.write_text(edited((toy.directory / "manifest.json").read_text(), random.Random(seed)))
    try:
        manifest = Manifest.load(path)
        LabelMap.from_json(manifest.label_map)
    except UserError as error:
        assert printable(str(error)) == str(error)


@pytest.mark.parametrize("seed", range(100))
def test_no_edit_of_an_environment_or_of_facts_ends_with_another_exception(trained, tmp_path, seed):
    draw, run = random.Random(seed), RunDirectory(tmp_path)
    run.environment.write_text(edited((trained / "environment.json").read_text(), draw))
    try:
        environment = run.read_environment()
        assert isinstance(environment["dataset_directory"], str)
    except UserError as error:
        assert printable(str(error)) == str(error)
    shutil.copytree(trained / "best", tmp_path / "best")
    facts = edited((trained / "best" / "facts.json").read_text(), draw)
    rewritten(tmp_path / "best", lambda _: (tmp_path / "best" / "facts.json").write_text(facts))
    try:
        read_checkpoint(tmp_path / "best")
    except UserError as error:
        assert printable(str(error)) == str(error)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "1" * 5_000, "\x00", "", "nul", "{}" + " " * 2000], ids=lambda text: text[:8])
def test_json_that_is_deep_long_or_none_is_a_value_error(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError):
        read_json(path, most_bytes=1000 if len(text) < 3000 else 2**20)


def test_json_from_a_pipe_does_not_wait(tmp_path):
    import os

    os.mkfifo(tmp_path / "a.json")
    began = time.monotonic()
    with pytest.raises(ValueError, match="no regular file"):
        read_json(tmp_path / "a.json", most_bytes=1000)
    assert time.monotonic() - began < 2
    with pytest.raises(UserError, match="found a pipe or a device"):
        image_files([tmp_path / "a.json"])


# gin


GIN = {
    "macros that unfold": "a0 = (1, 1)\n"
    + "".join(f"a{i} = (%a{i - 1}, %a{i - 1}, %a{i - 1}, %a{i - 1})\n" for i in range(1, 30))
    + "train.metrics = %a29\n",
    "macros of macros": "".join(f"m{i} = %m{i + 1}\n" for i in range(3000)) + "m3000 = 1\ntrain.epochs = %m0\n",
    "many large macros": "m = (" + "1, " * 9000 + ")\ntrain.metrics = (" + "%m, " * 30 + ")\n",
    "deep nesting": "train.metrics = " + "(" * 5000 + ")" * 5000 + "\n",
    "a number of a million digits": "train.epochs = " + "9" * 500_000 + "\n",
    "a long line": "train.epochs = '" + "x" * 900_000 + "'\n",
    "a long file": "# x\n" * 400_000,
    "a call": "train.epochs = __import__('os').getpid()\n",
    "an import": "import os\n",
    "a format": "train.monitor = f'{1+1}'\n",
}


@pytest.mark.parametrize("what", GIN)
def test_a_gin_file_that_would_fill_memory_or_run_code_is_one_short_line(tmp_path, what):
    path = tmp_path / "received.gin"
    path.write_text(GIN[what])
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        configure([str(path)], [], modules=("flexseg.training.settings",), user_modules=())
    assert time.monotonic() - began < 20 and len(str(caught.value)) < 1000


# Archives, tables, folders


def test_a_zip_file_with_two_files_of_one_name_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for name in ("images/a.png", "masks/a.png", "images/a.png"):
            archive.writestr(name, b"x")
    assert "every file once, found 'images/a.png' twice" in str(toys.refusal(tmp_path, source=tmp_path / "twice.zip", name="twice"))


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\t=1", "=cmd|' /C calc'!A0"])
def test_a_name_is_no_formula_in_a_table(name):
    ((cell, number),) = csv.reader(io.StringIO(_csv([[name, -1.5]]).decode()))
    assert cell == f"'{name}" and number == "-1.5"


def test_only_a_folder_with_flexseg_s_mark_is_removed(tmp_path):
    for kind in ("folder", "file", "link"):
        path = tmp_path / kind
        if kind == "folder":
            path.mkdir()
            (path / "mine.txt").write_text("mine")
        elif kind == "file":
            path.write_text("mine")
        else:
            path.symlink_to(tmp_path / "folder")
        for act in (make_own_folder, remove_own_folder):
            with pytest.raises(UserError, match="a folder that flexseg made"):
                act(path)
    assert (tmp_path / "folder" / "mine.txt").read_text() == "mine"
    own = make_own_folder(tmp_path / "own")
    assert is_own_folder(own)
    remove_own_folder(own)
    assert not own.exists()


def test_a_folder_of_the_user_s_is_not_replaced_by_a_build(tmp_path):
    source = toys.write_folder(tmp_path / "source", {f"train/c{i}": (16, 16) for i in range(3)})
    mine = tmp_path / "data" / "image_mask_folder" / "mine" / "1.0.0"
    mine.mkdir(parents=True)
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="a dataset that flexseg built, or nothing"):
        toys.build(tmp_path, source=source, name="mine", overwrite=True)
    beside = tmp_path / "data" / ".building_image_mask_folder_other"
    beside.mkdir()
    (beside / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="a folder that flexseg made"):
        toys.build(tmp_path, source=source, name="other")
    assert (mine / "notes.txt").read_text() == (beside / "notes.txt").read_text() == "mine"


def test_derive_copies_nothing_that_a_link_brings_from_elsewhere_and_nothing_that_is_no_picture(tmp_path):
    import flexseg

    source = toys.write_folder(tmp_path / "source", {f"train/c{i}": (16, 16) for i in range(2)})
    secret = tmp_path / "secret.png"
    shutil.copy(source / "train/images/c0.png", secret)
    (source / "train/images/c0.png").unlink()
    (source / "train/images/c0.png").symlink_to(secret)
    with pytest.raises(UserError, match="c0.png: expected a file in the source, found a link that leads elsewhere"):
        flexseg.derive(source=str(source), output=str(tmp_path / "derived"))
    (source / "train/images/c0.png").unlink()
    (source / "train/images/c0.png").write_text("root:x:0:0\n")
    with pytest.raises(UserError, match="c0.png"):
        flexseg.derive(source=str(source), output=str(tmp_path / "derived"))
    assert not (tmp_path / "derived").exists()


def test_check_writes_into_no_folder_of_the_user_s(tmp_path):
    import flexseg

    source = toys.write_folder(tmp_path / "source", {f"train/c{i}": (16, 16) for i in range(3)})
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "check.html").write_text("mine")
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="expected a new folder, or one that flexseg wrote, found one with other files"):
        flexseg.check(source=str(source), output=str(mine))
    assert (mine / "check.html").read_text() == "mine"
    for _ in range(2):
        flexseg.check(source=str(source), output=str(tmp_path / "own"))


def test_two_builds_of_one_name_do_not_run_at_once(tmp_path):
    import flexseg
    from flexseg.runs.lock import FolderLock

    source = toys.write_folder(tmp_path / "source", {f"train/c{i}": (16, 16) for i in range(3)})
    (tmp_path / "data").mkdir()
    beside = tmp_path / "data" / ".building_image_mask_folder_one"
    make_own_folder(beside)
    with FolderLock(tmp_path / "data" / ".building_image_mask_folder_one.lock", what="flexseg build"):
        with pytest.raises(UserError, match="no other process that writes there, found flexseg build.*or name another --name"):
            flexseg.build(name="one", source=str(source), data_dir=str(tmp_path / "data"))
        assert is_own_folder(beside)
    flexseg.build(name="one", source=str(source), data_dir=str(tmp_path / "data"))
    assert not beside.exists() and {path.name for path in (tmp_path / "data").iterdir()} == {"image_mask_folder"}


def test_a_report_of_a_run_that_cannot_be_written_to_goes_elsewhere(toy, tmp_path, trained):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    report, said = toy_runs.evaluate(run, split="valid", output=str(tmp_path / "report"))
    assert json.loads((tmp_path / "report" / "report.json").read_text())["cases"] == report["cases"] and f"written: {tmp_path / 'report'}" in said
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize("text", ["epoch,loss\nx,1\n", "epoch,loss\n1,$(id)\n", "epoch,loss\n1,\x1b[2J\n", "\udcff", 'epoch,loss\n"1,2\n'], ids=repr)
def test_a_table_of_something_else_is_one_line(tmp_path, text):
    from flexseg.files.csv_log import CsvLog

    path = tmp_path / "train_losses.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    try:
        CsvLog(path, ("epoch", "loss"))
    except UserError as error:
        assert "train_losses.csv: expected" in str(error) and printable(str(error)) == str(error)


@pytest.mark.parametrize("seed", range(40))
def test_no_edit_of_a_finished_run_ends_with_another_exception(trained, tmp_path, seed):
    run = RunDirectory(tmp_path)
    run.finished.write_text(edited((trained / "finished.json").read_text(), random.Random(seed)))
    try:
        assert run.read_finished()["epochs"] >= 0
    except UserError as error:
        assert printable(str(error)) == str(error)


def test_a_dollar_sign_in_a_name_is_no_mathematics(tmp_path):
    from flexseg.pictures.curves import plot_curves

    (tmp_path / "a.csv").write_text("epoch,$\\frac{1}{$,val_$\\frac{1}{$\n1,0.5,0.4\n2,0.4,0.3\n")
    (picture,) = plot_curves(tmp_path / "a.csv", tmp_path / "a.png")
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize(
    "facts",
    [{}, [], {"step": "x"}, {"step": None}, {"epoch": 1.5}, {"monitor": "\x1b[2J"}, {"value": "high"}, {"step": 1, "epochs_done": []}],
    ids=str,
)
def test_facts_of_something_else_end_in_one_line(toy, trained, tmp_path, facts):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (newest,) = (run / "checkpoints").glob("step_*")
    for folder in (run / "best", newest):
        rewritten(folder, lambda _, folder=folder: (folder / "facts.json").write_text(json.dumps(facts)))
    with pytest.raises(UserError):
        toy_runs.train(toy, run, "train.epochs=2")
    try:
        toy_runs.evaluate(run, split="valid")
    except UserError as error:
        assert printable(str(error)) == str(error)
