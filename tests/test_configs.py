"""Every shipped config trains; the networks' settings, small ones and published ones, are built and counted."""

import re
from importlib import resources
from pathlib import Path

import processes
import pytest
import toys
from test_breastdm import write as write_patient
from test_sources import write_slides

from flexseg.config.configure import configure
from flexseg.models.abstract_build import abstract_build
from flexseg.models.build import build_model

FOLDER = Path(str(resources.files("flexseg.configs")))
DIVISIONS = ("tnbc_5_fold.gin", "tnbc_leave_one_out.gin", "tnbc_split.gin")  # for `flexseg build`
CONFIGS = sorted({str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.gin")} - set(DIVISIONS))
NETWORKS = tuple(name for name in CONFIGS if name.startswith("models/"))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """The dataset that each config is written for, small."""
    place = tmp_path_factory.mktemp("configs")
    nuclei = ["synthetic_nuclei.slides=(2,1,1)", "synthetic_nuclei.images_per_slide=2"]
    toys.build(place, source=None, dataset="synthetic_nuclei", gin_param=nuclei)
    patients = ["split.train_groups=(1,2)", "split.valid_groups=(3,)", "split.test_groups=(4,)"]
    toys.build(place, source=write_slides(place / "slides", {f"{patient:02}": 2 for patient in range(1, 5)}), dataset="tnbc", gin_param=patients)
    for split, patient in (("train", "BreaDM-Ma-1"), ("val", "BreaDM-Ma-2"), ("test", "BreaDM-Ma-3")):
        write_patient(place / "BreaDM", split, patient)
    toys.build(place, source=place / "BreaDM", dataset="malignant_breastdm")
    return place / "data"


def dataset_of(config: str) -> str:
    return next((name for name in ("malignant_breastdm", "tnbc") if config.startswith(name)), "synthetic_nuclei")


def test_the_documents_name_every_config():
    pages = "".join((Path(__file__).parents[1] / "docs" / "training" / name).read_text() for name in ("index.md", "models.md"))
    assert CONFIGS and all(f"`{name}`" in pages for name in (*CONFIGS, *DIVISIONS))


@pytest.mark.parametrize("name", DIVISIONS)
def test_a_division_of_tnbc_is_by_patient(name, tmp_path):
    source = write_slides(tmp_path / "slides", {f"{patient:02}": 1 for patient in range(1, 12)})
    dataset = toys.build(tmp_path, source=source, dataset="tnbc", gin_file=[name])
    groups = {split: set(table.group_id) for split, table in dataset.manifest.splits.items()}
    assert groups.keys() == {"train", "valid", "test"} and sum(map(len, groups.values())) == 11
    if name == "tnbc_leave_one_out.gin":
        assert groups["test"] == {"1"} and groups["valid"] == {"2"}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_the_parameters_that_its_head_says(name):
    head = (FOLDER / name).read_text().splitlines()[0]
    configure(["default.gin", name], [], modules=("flexseg.training.assembly",))
    with abstract_build():
        model = build_model(image_size=(256, 256), channels=3, classes=2)
    assert f"{model.count_params():,}" == re.search(r"([\d,]+) parameters for two classes", head)[1]


@pytest.mark.slow
@pytest.mark.parametrize("config", [name for name in CONFIGS if name not in NETWORKS or name == "models/u2net_small.gin"])
def test_a_dry_run_is_not_refused(config, data_dir):
    """On two replicas where the settings are made for them; one network over another file (they all train in tests/test_models.py)."""
    replicas = 2 if config in ("default.gin", "quickstart.gin") or "multi_gpu" in config else 1
    # In a process of its own: the reference's two settings take 125 million parameters and give the memory back only at the end.
    command = [
        "train",
        *(f"--gin_file={name}" for name in (("default.gin", config) if "/" in config else (config,))),  # a model's file stands over another
        f"--dataset={dataset_of(config)}",
        f"--data_dir={data_dir}",
    ]
    if "/" in config or "image_size = (512, 512)" in (FOLDER / config).read_text():  # for GPUs; 128 is the least that eight layers take
        command.append("--gin_param=input.image_size=(128,128)")
    if (FOLDER / config).read_text().count("include") and "flexunet" in config:  # another one's network, which is tried at its size
        command.append("--gin_param=flex_unet.base_filters=4")
    if "multi_gpu" in config:  # minutes on two cores with sixteen
        command.append("--gin_param=train.global_batch_size=2")
    done = processes.start("flexseg.commands.dispatcher:run", [*command, f"--logical_cpus={replicas}", "--dry_run"], cwd=data_dir).wait(900)
    assert done.returncode == 0, done.stderr
    assert f"{replicas} × CPU" in done.stdout and "second step" in done.stdout
    assert "/" in config or "has no effect" not in done.stdout
