"""A run of twelve epochs seen through TensorBoard, started with the command that `flexseg train` prints: first its HTTP API, then a browser."""

import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import flexseg

EPOCHS = 12  # more than the 10 images that TensorBoard keeps unless it is told otherwise
CASE = "slide_01_000"
TAG = f"epoch_change_infer/{CASE}"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run directory: 12 epochs of one step."""
    folder = tmp_path_factory.mktemp("tensorboard")
    data, workdir = str(folder / "data"), folder / "run"
    flexseg.build(
        dataset="synthetic_nuclei", data_dir=data,
        gin_param=["synthetic_nuclei.slides=(1,1,0)", "synthetic_nuclei.images_per_slide=2", "synthetic_nuclei.image_size=(128,128)"],
    )  # fmt: skip
    flexseg.train(
        dataset="synthetic_nuclei", data_dir=data, workdir=str(workdir),
        gin_param=[
            f"train.epochs={EPOCHS}", "train.steps_per_epoch=1", "train.global_batch_size=2", f"train.curves_every={EPOCHS}",
            "input.image_size=(64,64)", "flex_unet.base_filters=4", "flex_unet.num_layers=2", "train.precision='float32'",
        ],
    )  # fmt: skip
    return workdir


@pytest.fixture(scope="module")
def address(run) -> Iterator[str]:
    """Where a TensorBoard process serves the run, on a free port."""
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={run / 'tensorboard'}", "--samples_per_plugin=images=0", "--port=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"at (http://localhost:\d+)", line):
                break
        else:
            pytest.fail("TensorBoard did not start:\n" + "".join(said))
        watchdog.cancel()
        yield found[1]
    finally:
        watchdog.cancel()
        process.terminate()
        process.wait(timeout=30)


def fetch(address: str, route: str, **query) -> bytes:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"{address}/data/plugin/{route}?{urllib.parse.urlencode(query)}", timeout=60) as answer:
        return answer.read()


def ask(address: str, route: str, **query):
    return json.loads(fetch(address, route, **query))


def test_every_epoch_has_its_picture_and_the_picture_is_the_file_of_the_run(address, run):
    tags = ask(address, "images/tags")
    assert set(tags["valid"]) == {TAG, "epoch_change_infer/slide_01_001"}
    images = ask(address, "images/images", run="valid", tag=TAG, sample=0)
    assert [image["step"] for image in images] == list(range(1, EPOCHS + 1))
    from PIL import Image, ImageChops

    for number in (1, EPOCHS):
        path = run / "x.png"
        path.write_bytes(fetch(address, f"images/individualImage?{images[number - 1]['query']}"))
        shown, written = Image.open(path).convert("RGB"), Image.open(run / "epoch_change_infer" / f"epoch_{number:04d}" / f"{CASE}.png").convert("RGB")
        assert ImageChops.difference(shown, written).getbbox() is None


def test_every_epoch_has_its_scalars(address):
    tags = ask(address, "scalars/tags")
    assert {"loss", "mean_foreground_dice", "learning_rate", "loss_scale", "images_per_second", "input_wait_fraction", "host_memory_gib"} <= set(tags["train"])
    assert {"loss", "mean_foreground_dice", "dice/nucleus"} <= set(tags["valid"])
    for split in ("train", "valid"):
        points = ask(address, "scalars/scalars", run=split, tag="loss")
        assert [step for _, step, _ in points] == list(range(1, EPOCHS + 1))


def test_the_configuration_is_shown_as_text(address):
    assert set(ask(address, "text/tags")["train"]) == {"config", "model"}
