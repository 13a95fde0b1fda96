"""launch/environment.sh: which Python it takes, what it installs, and when it installs nothing. Python and pip are played by a script."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("bash", "basename", "cat", "chmod", "cp", "cut", "dirname", "grep", "mkdir", "mktemp", "paste", "rm", "sha256sum", "sort", "tail", "tr")
PYTHON = """#!/usr/bin/env -S bash
case "$*" in
--version) echo "Python $VERSION" ;;
-c*) [[ $VERSION == 3.1[123].* ]] ;;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip --version") ;;
"-m pip install"*)
    echo "$PIP_CONSTRAINT" "${@: -4}" >>"$PIP_CALLS"
    if [[ -n ${PIP_FAILS:-} ]]; then echo "no such package"; exit 1; fi
    echo >"$VIRTUAL_ENV/bin/flexseg" && chmod +x "$VIRTUAL_ENV/bin/flexseg" ;;
esac
"""


class Clone:
    """A clone's launch/environment.sh, on a machine that has some tools and one Python."""

    def __init__(self, place: Path):
        self.path, self.bin, self.calls = place / "a clone", place / "bin", place / "calls"
        self.settings = {"VERSION": "3.12.1"}
        (self.path / "launch").mkdir(parents=True)
        self.bin.mkdir()
        for name in ("pyproject.toml", "requirements.lock", "launch/environment.sh"):
            shutil.copy(ROOT / name, self.path / name)
        for tool in ("env", *TOOLS):
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.program("python3", PYTHON)

    def program(self, name: str, text: str, folder: Path | None = None) -> None:
        path = (folder or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def prepare(self, *extras: str, **environment: str) -> subprocess.CompletedProcess:
        command = f'set -euo pipefail; . "{self.path}/launch/environment.sh"; prepare_environment {" ".join(extras)}; echo "in $VIRTUAL_ENV"'
        variables = {"PATH": str(self.bin), "PIP_CALLS": str(self.calls), "TMPDIR": str(self.bin.parent)} | self.settings | environment
        return subprocess.run([self.bin / "bash", "-c", command, "launcher"], env=variables, text=True, capture_output=True, cwd=self.bin, timeout=60)

    def installed(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def clone(tmp_path) -> Clone:
    return Clone(tmp_path)


def test_an_environment_is_made_once_with_everything_pinned(clone):
    first = clone.prepare()
    assert first.returncode == 0 and first.stdout.endswith(f"in {clone.path}/.venv\n"), first.stderr
    assert clone.installed() == ["requirements.lock -c requirements.lock -e ."]
    second = clone.prepare()
    assert second.stdout == f"in {clone.path}/.venv\n"
    assert len(clone.installed()) == 1


def test_tests_add_their_extra_and_the_quickstart_afterwards_installs_nothing(clone):
    clone.prepare()
    clone.prepare("test")
    clone.prepare()
    assert [line.rpartition(" ")[2] for line in clone.installed()] == [".", ".[test]"]


def test_a_changed_lock_installs_again(clone):
    clone.prepare()
    with (clone.path / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    clone.prepare()
    assert len(clone.installed()) == 2


def test_the_active_environment_is_used(clone, tmp_path):
    clone.program("python", PYTHON, tmp_path / "mine" / "bin")
    done = clone.prepare(VIRTUAL_ENV=str(tmp_path / "mine"))
    assert done.stdout.endswith(f"in {tmp_path / 'mine'}\n")
    assert not (clone.path / ".venv").exists()


def test_a_gpu_that_answers_adds_the_extra_and_says_so(clone):
    clone.program("nvidia-smi", "#!/bin/sh\nexit 9\n")  # the program without a driver
    assert "GPU" not in clone.prepare("test").stdout
    clone.program("nvidia-smi", "#!/bin/sh\necho GPU 0\n")
    assert "an NVIDIA GPU is here" in clone.prepare("test").stdout
    assert [line.rpartition(" ")[2] for line in clone.installed()] == [".[test]", ".[gpu,test]"]


@pytest.mark.parametrize("version", ["3.10.13", "3.14.0"])
def test_a_python_that_does_not_fit_is_refused_in_one_line(clone, tmp_path, version):
    done = clone.prepare(VERSION=version)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "expected Python 3.11, 3.12 or 3.13" in done.stderr and version in done.stderr
    clone.program("python", PYTHON, tmp_path / "mine" / "bin")
    done = clone.prepare(VERSION=version, VIRTUAL_ENV=str(tmp_path / "mine"))
    assert done.returncode == 1 and str(tmp_path / "mine") in done.stderr
    assert clone.installed() == []


def test_a_failed_installation_names_its_log_and_is_tried_again(clone):
    done = clone.prepare(PIP_FAILS="1")
    assert done.returncode == 1 and "no such package" in done.stderr
    assert Path(done.stderr.strip().rpartition("log: ")[2]).read_text() == "no such package\n"
    assert clone.prepare().returncode == 0
    assert len(clone.installed()) == 2


def test_the_launchers_and_the_lock_name_no_host():
    for path in (*sorted((ROOT / "launch").glob("*.sh")), ROOT / "requirements.lock", ROOT / ".ci" / "run"):
        assert "://" not in path.read_text(), path
        assert "--index-url" not in path.read_text() and "--find-links" not in path.read_text(), path
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
