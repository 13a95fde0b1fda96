"""Tiny training runs, evaluations and predictions in this process, for every test that needs one.

    said = toy_runs.train(toy, tmp_path / "run", "train.epochs=3", logical_cpus=2)       # what was printed
    report, said = toy_runs.evaluate(tmp_path / "run", split="valid")
    written = toy_runs.predict(tmp_path / "run", images=[...], output=...)

What a command leaves behind in the process (gin's state, op determinism, where tracebacks go) is put back.
"""

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import gin
import numpy as np
import processes
from tensorflow.python.framework import config as tf_config  # enabling op determinism is public, putting it back is not

from flexseg.commands import dispatcher
from flexseg.commands import evaluate as evaluate_command
from flexseg.commands import predict as predict_command
from flexseg.commands import train as train_command
from flexseg.data.dataset import BuiltDataset
from flexseg.launch.local import free_addresses
from flexseg.runs.checkpoint_format import read_checkpoint

FAULTY_RUN = str(Path(__file__).parents[1] / "benchmarks" / "faults" / "faulty_run.py")
TINY = (
    "build_model.architecture=@flex_unet", "flex_unet.base_filters=2", "flex_unet.num_layers=2", "flex_unet.dropout_rate=0.0",
    "flex_unet.normalization='none'", "input.image_size=(32,32)", "augment.enabled=False", "train.precision='float32'", "train.epochs=2",
    "train.steps_per_epoch=2", "train.global_batch_size=4", "epoch_change_infer.num_infer_images=0", "train.curves_every=1000",
)  # fmt: skip


@contextlib.contextmanager
def command() -> Iterator[io.StringIO]:
    """Keeps what is printed, and puts the process back as it was."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield said
    finally:
        gin.clear_config()
        dispatcher._traceback_file = None
        tf_config.disable_op_determinism()


def train(dataset: BuiltDataset, workdir: Path | None, *params: str, **flags) -> str:
    """`flexseg train` with the bindings of TINY, then `params`; returns what was printed."""
    with command() as said:
        train_command.run(**arguments(dataset, workdir, *params), **flags)
    return said.getvalue()


def arguments(dataset: BuiltDataset, workdir: Path | None, *params: str) -> dict:
    """The arguments of `flexseg train` for a dataset and a run directory."""
    place = {"dataset": dataset.name, "data_dir": str(dataset.directory.parents[2])}
    return place | {"workdir": None if workdir is None else str(workdir), "gin_param": tiny(*params)}


def tiny(*params: str) -> list[str]:
    """The bindings of TINY, without those of its network where `params` name another, then `params`."""
    other = any(param.startswith("build_model.architecture=") for param in params)
    return [*(param for param in TINY if not (other and param.startswith(("build_model.", "flex_unet.")))), *params]


def evaluate(workdir: Path, **flags) -> tuple[dict, str]:
    """`flexseg evaluate`: (the report, what was printed)."""
    with command() as said:
        report = evaluate_command.run(workdir=str(workdir), **flags)
    return report, said.getvalue()


def predict(workdir: Path, *, images, **flags) -> list[Path]:
    """`flexseg predict`: the masks written."""
    with command():
        return [Path(path) for path in predict_command.run(workdir=str(workdir), images=[str(path) for path in images], **flags)]


def last_checkpoint(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the latest checkpoint, by part and place (Keras's numbers are left out of the names)."""
    parts, _ = read_checkpoint(max((workdir / "checkpoints").glob("step_*")))
    return {f"{part} {name.split(' ')[0]}": array for part, arrays in parts.items() for name, array in arrays.items()}


def outcome(workdir: Path) -> dict[str, bytes | str]:
    """What two runs must have in common: every array of the last checkpoint and of the best weights, and both tables."""
    best = {f"best {name}": array for name, array in read_checkpoint(workdir / "best")[0]["model"].items()}
    arrays = {name: array.tobytes() for name, array in (last_checkpoint(workdir) | best).items()}
    return arrays | {name: (workdir / name).read_text() for name in ("train_losses.csv", "train_metrics.csv")}


def process(
    dataset: BuiltDataset, workdir: Path, *params: str, fault: str = "none", call: int = 0, forked: bool = True, **flags
) -> subprocess.CompletedProcess:
    """`flexseg train` in a process of its own, forked or begun anew, with a fault (see benchmarks/faults/faulty_run.py); its output is text."""
    words = [fault, str(call), *train_command_line(dataset, workdir, *params, **flags)]
    if forked:
        return processes.start(FAULTY_RUN, words).wait(600)
    return subprocess.run([sys.executable, FAULTY_RUN, *words], capture_output=True, text=True, timeout=600)


def workers(
    dataset: BuiltDataset, workdir: Path, *params: str, count: int, faults: Mapping[int, tuple[str, int]] = {}, workdirs: Mapping[int, Path] = {},
    params_of: Mapping[int, Sequence[str]] = {}, flags_of: Mapping[int, Mapping[str, object]] = {}, seconds: float = 300,
) -> list[subprocess.CompletedProcess]:  # fmt: skip
    """`flexseg train` in `count` worker processes; by worker: faults (see benchmarks/faults/faulty_run.py), other run directories, further bindings and flags."""
    addresses = free_addresses(count)
    started = []
    try:
        for worker in range(count):
            fault, call = faults.get(worker, ("none", 0))
            flags = {"workers": ",".join(addresses), "worker": worker, **flags_of.get(worker, {})}
            words = train_command_line(dataset, workdirs.get(worker, workdir), *params, *params_of.get(worker, ()), **flags)
            started.append(processes.start(FAULTY_RUN, [fault, str(call), *words]))
        return [process.wait(seconds) for process in started]
    finally:
        for process in started:
            process.kill()


def train_command_line(dataset: BuiltDataset, workdir: Path, *params: str, **flags) -> list[str]:
    """The words behind `flexseg`."""
    given = arguments(dataset, workdir, *params)
    bindings = [f"--gin_param={binding}" for binding in given.pop("gin_param")]
    return ["train", *(f"--{name}={value}" for name, value in (given | flags).items()), *bindings]
