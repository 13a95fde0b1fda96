"""A run of twelve epochs seen through TensorBoard, started with the command that `flexseg train` prints: first its HTTP API, then a browser."""

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageChops

import flexseg

pytestmark = pytest.mark.xdist_group("tensorboard")  # the run is trained once

EPOCHS = 12  # more than the 10 images that TensorBoard keeps unless it is told otherwise
CASES = ("slide_01_000", "slide_01_001")
TAG = f"epoch_change_infer/{CASES[0]}"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, list[str]]:
    """A run directory after 12 epochs of two steps, and the TensorBoard command that the training printed."""
    folder, printed = tmp_path_factory.mktemp("tensorboard"), io.StringIO()
    data, workdir = str(folder / "data"), folder / "run"
    images = ("slides=(1,1,0)", f"images_per_slide={len(CASES)}", "image_size=(128,128)")
    network = ("input.image_size=(64,64)", "flex_unet.base_filters=4", "flex_unet.num_layers=2", "train.precision='float32'")
    length = (f"train.epochs={EPOCHS}", "train.steps_per_epoch=2", "train.global_batch_size=2", f"train.curves_every={EPOCHS}")
    with contextlib.redirect_stdout(printed):
        flexseg.build(dataset="synthetic_nuclei", data_dir=data, gin_param=[f"synthetic_nuclei.{binding}" for binding in images])
        flexseg.train(dataset="synthetic_nuclei", data_dir=data, workdir=str(workdir), gin_param=[*network, *length])
    (command,) = (line for line in printed.getvalue().splitlines() if line.startswith("tensorboard "))
    return workdir, shlex.split(command)


@pytest.fixture(scope="module")
def address(run) -> Iterator[str]:
    """Where a TensorBoard process serves the run, on a free port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *run[1][1:], "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    said = []
    try:
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


def fetch(address: str, route: str) -> bytes:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"{address}/data/plugin/{route}", timeout=60) as answer:
        return answer.read()


def ask(address: str, route: str, **query):
    return json.loads(fetch(address, f"{route}?{urllib.parse.urlencode(query)}"))


def test_every_epoch_has_its_picture_and_it_is_the_file_in_the_run(address, run):
    # `--samples_per_plugin=images=0`, said to mean all, shows none: tensorboard#5550.
    assert set(ask(address, "images/tags")["valid"]) == {f"epoch_change_infer/{case}" for case in CASES}
    for case in CASES:
        images = ask(address, "images/images", run="valid", tag=f"epoch_change_infer/{case}", sample=0)
        assert [image["step"] for image in images] == list(range(1, EPOCHS + 1))
        shown = Image.open(io.BytesIO(fetch(address, f"images/individualImage?{images[-1]['query']}")))
        written = Image.open(run[0] / "epoch_change_infer" / f"epoch_{EPOCHS:04d}" / f"{case}.png")
        assert ImageChops.difference(shown.convert("RGB"), written.convert("RGB")).getbbox() is None


def test_every_epoch_has_its_scalars(address):
    tags = ask(address, "scalars/tags")
    facts = {"learning_rate", "loss_scale", "images_per_second", "input_wait_fraction", "host_memory_gib", "seconds_in_checkpoints"}
    assert facts | {"loss", "mean_foreground_dice"} <= set(tags["train"])
    assert {"loss", "mean_foreground_dice", "dice/nucleus"} <= set(tags["valid"])
    for split in ("train", "valid"):
        points = ask(address, "scalars/scalars", run=split, tag="loss")
        assert [step for _, step, _ in points] == list(range(1, EPOCHS + 1))


def test_the_configuration_is_shown_as_text(address):
    assert set(ask(address, "text/tags")["train"]) == {"config", "model"}


# The page is made of nested shadow trees, which a browser's own search does not enter.
WALK = """
    const found = [], sliders = [];
    const walk = node => {
        if (node.nodeType === 3 && node.textContent.trim()) found.push(node.textContent.trim());
        if (node.nodeName === 'PAPER-SLIDER' && node.getRootNode().host?.nodeName === 'TF-IMAGE-LOADER') sliders.push(node);
        if (node.shadowRoot) walk(node.shadowRoot);
        if (!['STYLE', 'SCRIPT', 'TEMPLATE', 'NOSCRIPT'].includes(node.nodeName)) node.childNodes.forEach(walk);
    };
    walk(document.body);
"""


@pytest.fixture
def browser(tmp_path):
    """Headless Chromium that reaches this machine alone."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if not all(programs.values()):
        pytest.skip(f"needs Debian's chromium and chromium-driver, found {programs}")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update",
        "disable-sync", "disable-dev-shm-usage", "no-proxy-server", "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",
        "window-size=1600,1200", f"user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=Service(programs["chromedriver"]))
    try:
        yield driver
    finally:
        driver.quit()


def wait_for_text(browser, *parts: str, times: int = 1) -> str:
    """All text of the page, once it holds each of `parts` that many times or more: the cards of the page load one by one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        text = " ".join(browser.execute_script(WALK + "return found;"))
        if all(text.count(part) >= times for part in parts):
            return text
        time.sleep(0.5)
    pytest.fail(f"expected {parts} {times} times on the page, found: {text}")


@pytest.mark.slow
def test_the_image_page_shows_the_last_epoch_and_goes_back_to_the_first(address, browser, tmp_path):
    browser.get(f"{address}/#images")
    wait_for_text(browser, f"tag: {TAG}")
    assert wait_for_text(browser, f"step {EPOCHS}", times=len(CASES)).count(f"step {EPOCHS}") == len(CASES)
    assert browser.execute_script(WALK + "return sliders.map(slider => slider.max);") == [EPOCHS - 1] * len(CASES)
    browser.execute_script(WALK + "sliders.forEach(slider => { slider.value = 0; });")
    assert f"step {EPOCHS}" not in wait_for_text(browser, "step 1 ", times=len(CASES))
    browser.execute_script(WALK + f"sliders.forEach(slider => {{ slider.value = {EPOCHS - 1}; }});")
    wait_for_text(browser, f"step {EPOCHS}", times=len(CASES))
    time.sleep(2)  # the pictures themselves
    assert browser.save_screenshot(str(tmp_path / "images.png"))
    browser.get(f"{address}/#timeseries")
    wait_for_text(browser, TAG, "mean_foreground_dice", f"Step {EPOCHS}")
    time.sleep(2)
    assert browser.save_screenshot(str(tmp_path / "timeseries.png"))
