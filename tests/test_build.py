"""`flexseg build`: what is wrong is refused in one line and leaves nothing behind; what is printed cures it."""

import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import toys
from PIL import Image

from flexseg.commands import build
from flexseg.data.dataset import open_dataset


@pytest.fixture
def source(tmp_path) -> Path:
    """Four sound cases in three splits."""
    return toys.write_folder(tmp_path / "source", toys.FOUR)


def printed_bindings(text: str) -> list[str]:
    """The values of the --gin_param flags in a message, as a shell would read them."""
    return [shlex.split(flag)[0].partition("=")[2] for flag in re.findall(r'--gin_param="(?:[^"\\]|\\.)*"', text)]


def cut(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


# What is wrong is refused


def empty(source):
    shutil.rmtree(source)
    (source / "images").mkdir(parents=True)
    (source / "masks").mkdir()


MISTAKES = {
    "an image without mask": (lambda source: (source / "train/masks/a.png").unlink(), ["1 of 2 images without one: a.png"]),
    "a mask without image": (lambda source: (source / "train/images/a.png").unlink(), ["1 of 2 masks without one: a.png"]),
    "different sizes": (lambda source: Image.new("L", (20, 13)).save(source / "train/masks/b.png"), ["masks/b.png", "12 x 20", "13 x 20"]),
    "transposed sizes": (lambda source: Image.new("L", (12, 20)).save(source / "train/masks/b.png"), ["masks/b.png", "12 x 20", "20 x 12"]),
    "an empty folder": (empty, ["source/images", "found none"]),
    "no folder": (shutil.rmtree, ["--source", "no folder"]),
    "a truncated image": (lambda source: cut(source / "test/images/d.png", 0.7), ["images/d.png", "complete PNG"]),
    "a truncated mask": (lambda source: cut(source / "valid/masks/c.png", 0.7), ["masks/c.png", "complete PNG"]),
    "an empty file": (lambda source: (source / "train/images/a.png").write_bytes(b""), ["images/a.png", "empty file"]),
    "a text file": (lambda source: (source / "train/images/a.png").write_text("no image"), ["images/a.png", "PNG, JPEG, TIFF or BMP"]),
    "two files of one stem": (lambda source: Image.new("RGB", (16, 16)).save(source / "train/images/a.jpg"), ["a.jpg and a.png"]),
    "a value off the map": (lambda source: toys.repaint(source / "train/masks/a.png", 76), ["0 (", "76 (1 pixels)"]),
    "only background": (
        lambda source: [Image.new("L", size[::-1]).save(source / f"{name.replace('/', '/masks/')}.png") for name, size in toys.FOUR.items()],
        ["at least two classes"],
    ),
    "a group in two splits": (
        lambda source: (source / "groups.csv").write_text("image,group\na.png,1\nb.png,2\nc.png,1\nd.png,3\n"),
        ["1 group in two or more (a leak)", "group 1", "train/images/a.png", "valid/images/c.png", "split.resplit=True", "split.allow_leak=True"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_source_that_cannot_be_built_is_refused_in_one_line_and_nothing_is_written(tmp_path, source, mistake):
    make, words = MISTAKES[mistake]
    make(source)
    error = str(toys.refusal(tmp_path, source=source, name="toy"))
    assert all(word in error for word in words), error
    assert not (tmp_path / "data").exists()


OPTIONS = {
    "a slash": ({"name": "../toy"}, "--name"),
    "a hidden name": ({"name": ".toy"}, "--name"),
    "no such dataset": ({"dataset": "imagenet"}, "--dataset"),
    "a flag without meaning": ({"dataset": "synthetic_nuclei"}, "--source"),
    "another layout": ({"dataset": "tnbc"}, "--source"),
    "a flag of another dataset": ({"dataset": "tnbc", "mask_pattern": "{case}_mask"}, "--mask_pattern"),
    "more shards than cases": ({"num_shards": 2}, "--num_shards"),
    "an unknown group": ({"gin_param": ["split.resplit=True", "split.train_groups=('z',)"]}, "split.train_groups"),
    "a class left out": ({"gin_param": ["label_map.values={0:0,1:1}"]}, "masks/a.png"),
    "a pattern that finds no group": ({"group_pattern": "([0-9]+)"}, "--group_pattern"),
    "a small limit": ({"max_image_pixels": 100}, "images/a.png"),
}


@pytest.mark.parametrize("what", OPTIONS)
def test_options_that_make_no_sense_are_refused_by_name(tmp_path, source, what):
    options, where = OPTIONS[what]
    assert toys.refusal(tmp_path, **{"source": source, "name": "toy"} | options).where.split("=")[0].endswith(where)
    assert not (tmp_path / "data").exists()


def grey_png(path: Path, side: int) -> None:
    """A sound PNG of `side` x `side` black pixels of one bit, a few kilobytes long."""
    packed = zlib.compress(bytes(side * (1 + side // 8)), 9)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's account of memory")
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_20000_by_20000_pixels_are_refused_before_they_are_decoded(tmp_path, source, kind):
    toys.build(tmp_path, source=source, name="toy")  # what a first build loads is not counted
    grey_png(source / "train" / kind / "a.png", 20_000)
    assert (source / "train" / kind / "a.png").stat().st_size < 100_000
    before = resident("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    error = toys.refusal(tmp_path, source=source, name="toy")
    assert resident("VmHWM:") - before < 100  # 400 MiB and more when decoded
    assert error.where.endswith(f"{kind}/a.png") and "400000000" in error.found and "--max_image_pixels=400000000" in error.cure


def resident(name: str) -> float:
    """MiB."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)) / 1024


# The printed cure builds


def test_a_colour_off_the_map_is_cured_by_what_is_printed(tmp_path, source):
    for name in toys.FOUR:
        path = source / Path(name).parent / "masks" / f"{Path(name).name}.png"
        mask = np.array(Image.open(path))
        Image.fromarray(np.stack([mask, mask // 255 * 128, mask * 0], axis=-1)).save(path)
    without_map = toys.refusal(tmp_path, source=source, name="toy")
    assert "(255,128,0)" in without_map.found
    with_map = toys.refusal(tmp_path, source=source, name="toy", gin_param=["label_map.rgb_map={(0,0,0):0,(255,255,255):1}"])
    assert with_map.where.endswith("masks/a.png") and "(255,128,0)" in with_map.found
    dataset = toys.build(tmp_path, source=source, name="toy", gin_param=printed_bindings(without_map.cure))
    assert dataset.label_map.colors == [(0, 0, 0), (255, 128, 0)]
    np.testing.assert_array_equal(toys.pixels(dataset, "a")[1], toys.binary_mask("train/a", (16, 16)) // 255)
    three = toys.build(tmp_path, source=source, name="three", gin_param=printed_bindings(with_map.cure)[:1])
    assert printed_bindings(with_map.cure)[1] == "label_map.ignore=((255, 128, 0),)"
    assert three.label_map.num_classes == 3 and set(np.unique(toys.pixels(three, "a")[1])) == {0, 2}


def test_greys_of_resampling_are_cured_by_what_is_printed(tmp_path, source):
    path = source / "train/masks/a.png"
    mask = np.array(Image.open(path))
    mask[0, :3] = [3, 120, 250]
    Image.fromarray(mask).save(path)
    error = toys.refusal(tmp_path, source=source, name="toy", gin_param=["label_map.values={0:0,255:1}"])
    bindings = [binding for binding in printed_bindings(error.cure) if "off_map" in binding]
    dataset = toys.build(tmp_path, source=source, name="toy", gin_param=["label_map.values={0:0,255:1}", *bindings])
    assert toys.pixels(dataset, "a")[1][0, :3].tolist() == [0, 0, 1]


def test_a_leak_is_cured_by_what_is_printed(tmp_path, source):
    (source / "groups.csv").write_text("image,group\na.png,1\nb.png,2\nc.png,1\nd.png,3\n")
    resplit, allow = printed_bindings(toys.refusal(tmp_path, source=source, name="toy").cure)
    dataset = toys.build(tmp_path, source=source, name="apart", gin_param=[resplit])
    of_split = {split: set(table.group_id) for split, table in dataset.manifest.splits.items()}
    assert set.union(*of_split.values()) == {"1", "2", "3"} and sum(map(len, of_split.values())) == 3 and not dataset.manifest.leaked
    leaked = toys.build(tmp_path, source=source, name="leaked", gin_param=[allow])
    assert leaked.manifest.leaked and {split: table.case_id for split, table in leaked.manifest.splits.items()} == {
        "train": ["a", "b"], "valid": ["c"], "test": ["d"]
    }  # fmt: skip


def test_what_was_built_is_told_and_a_leak_is_stamped(tmp_path, source, capsys):
    (source / "groups.csv").write_text("image,group\na.png,1\nb.png,2\nc.png,1\nd.png,3\n")
    directory = build.run(source=str(source), name="toy", data_dir=str(tmp_path / "data"), gin_param=["split.allow_leak=True"])
    said = capsys.readouterr().out
    assert f"built: {directory}\n  train: 2 cases in 2 groups; background " in said and "LEAKED" in said
    assert f"next: flexseg train --dataset=toy --data_dir={tmp_path / 'data'} " in said


def test_the_console_script_refuses_and_what_it_prints_can_be_pasted(tmp_path, source):
    toys.repaint(source / "train/masks/a.png", 76)
    flexseg = Path(sys.executable).with_name("flexseg")
    line = f"'{flexseg}' build --name=toy --source='{source}' --data_dir='{tmp_path / 'data'}'"
    refused = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=120)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and refused.stderr.startswith("flexseg build: ")
    assert not (tmp_path / "data").exists()
    flags = " ".join(re.findall(r'--gin_param="[^"]*"', refused.stderr))
    built = subprocess.run(["bash", "-c", f"{line} {flags}"], capture_output=True, text=True, check=False, timeout=120)
    assert built.returncode == 0 and built.stderr == "", built.stderr
    assert "built: " in built.stdout and open_dataset("toy", tmp_path / "data").label_map.num_classes == 3
