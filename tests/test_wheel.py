"""The wheel: everything that the package needs is in it, and it works away from the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGED = ("flexseg", "datasets", "configs", "launch")  # the folders that become packages; all but the first below flexseg

pytestmark = pytest.mark.slow


def run(*command, cwd: Path, environment: dict | None = None) -> str:
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, because setuptools leaves build/ and *.egg-info beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in PACKAGED:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", source / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    # Without isolation: the build tools are those of requirements.lock, and nothing is fetched.
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", ".", cwd=source)
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory) -> Path:
    """A virtual environment that has the wheel, and the present one's libraries but not its flexseg."""
    folder = tmp_path_factory.mktemp("elsewhere")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    run(
        sys.executable, "-m", "pip", "--python", folder / "venv" / "bin" / "python", "install", "--quiet", "--no-deps", "--no-index",
        "--disable-pip-version-check", wheel, cwd=folder,
    )  # fmt: skip
    # A path in a .pth file is searched, but .pth files over there are not read: the editable flexseg stays out.
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text("\n".join(paths) + "\n")
    return folder


def call(elsewhere: Path, program: str, *arguments) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    return run(elsewhere / "venv" / "bin" / program, *arguments, cwd=elsewhere, environment=environment)


@pytest.fixture(scope="module")
def built(elsewhere) -> Path:
    """The same with a dataset built by its console script."""
    tiny = ("slides=(1,1,1)", "images_per_slide=2", "image_size=(32,32)")
    bindings = [f"--gin_param=synthetic_nuclei.{binding}" for binding in tiny]
    call(elsewhere, "flexseg", "build", "--dataset=synthetic_nuclei", "--data_dir=data", *bindings)
    return elsewhere


def test_the_wheel_holds_every_module_config_and_dataset_file_and_no_test(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    expected = set()
    for name in PACKAGED:
        for pattern in ("*.py", "*.gin", "README.md", "CITATIONS.bib", "TAGS.txt"):
            for path in (ROOT / name).rglob(pattern):
                below = path.relative_to(ROOT).as_posix()
                expected.add(below if name == "flexseg" else f"flexseg/{below}")
    assert "flexseg/configs/default.gin" in expected and "flexseg/datasets/synthetic_nuclei/TAGS.txt" in expected
    missing = expected - packed
    assert not missing
    extra = {name for name in packed - expected if ".dist-info/" not in name}
    assert not extra
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in packed)


def test_the_installed_wheel_builds_a_dataset_that_tfds_describes(built):
    program = """
        import sys
        from pathlib import Path
        import tensorflow_datasets as tfds
        import flexseg.datasets, flexseg.configs
        for package in (flexseg.datasets, flexseg.configs):
            assert Path(package.__file__).is_relative_to(sys.prefix), package.__file__
        info = tfds.builder_from_directory("data/synthetic_nuclei/synthetic_nuclei/1.0.0").info
        print("description:", info.description)
        print("examples:", {name: info.splits[name].num_examples for name in ("train", "valid", "test")})
    """
    told = call(built, "python", "-c", textwrap.dedent(program))
    assert "description: Procedural images of tissue" in told
    assert "examples: {'train': 2, 'valid': 2, 'test': 2}" in told


def test_the_installed_wheel_finds_a_shipped_config_by_name(built):
    small = ("flex_unet.base_filters=4", "flex_unet.num_layers=2", "input.image_size=(32,32)", "train.global_batch_size=2")
    told = call(
        built, "flexseg", "train", "--dry_run", "--gin_file=default.gin", "--dataset=synthetic_nuclei", "--data_dir=data",
        *(f"--gin_param={binding}" for binding in small),
    )  # fmt: skip
    assert "default.gin" in told and "second step" in told
    assert not (built / "runs").exists()
