"""Starts two workers with faults, each in its own process, and waits for them.

Usage:
    codes, said = start(trial_folder, {CHIEF: ("step", 7)}, None, seconds=180)
    reached = trial_folder.reached()
"""

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.faults.network import Network
from flexseg.launch.local import free_addresses
from flexseg.runs.checkpoint_format import checkpoint_folders, read_checkpoint
from flexseg.runs.layout import RunLayout

EPOCHS, STEPS = 4, 4
PARAMS = (
    "build_model.architecture=@flex_unet", "flex_unet.base_filters=4", "flex_unet.num_layers=2", "flex_unet.dropout_rate=0.05",
    "flex_unet.normalization='batch'", "input.image_size=(32,32)", "augment.enabled=True", "train.precision='float32'", f"train.epochs={EPOCHS}",
    f"train.steps_per_epoch={STEPS}", "train.global_batch_size=4", "epoch_change_infer.num_infer_images=0", "train.deterministic=True",
    "train.checkpoint_steps=3", "optimizer.ema_momentum=0.9", "eval.batch_size=4", "train.watchdog_multiple=20", "train.watchdog_minutes=0.25",
)  # fmt: skip
CHIEF, WORKER = 0, 1


@dataclasses.dataclass(frozen=True)
class TrialFolder:
    """The folder of a trial, with its run directory and its copy of the data."""

    folder: Path

    @property
    def workdir(self) -> Path:
        """The run directory."""
        return self.folder / "run"

    @property
    def newest(self) -> Path:
        """The newest checkpoint."""
        return checkpoint_folders(RunLayout(self.workdir).checkpoints)[-1]

    def shard(self, split: str) -> Path:
        """The first shard of a split."""
        return next((self.folder / "data").rglob(f"*-{split}.tfrecord*"))

    def reached(self) -> int:
        """Number of steps that a worker dispatched."""
        return max((int(path.read_text()) + 1 for path in self.folder.glob("trace_*")), default=0)


def start(
    trial_folder: TrialFolder, faults: dict, network: Network | None, cut: float | None = None, *, seconds: float
) -> tuple[list[int | None], list[str]]:
    """Starts both workers and waits for them: (exit codes, None for a hang; outputs)."""
    addresses = network.addresses if network else free_addresses(2)
    running, said = [], []
    for worker in (CHIEF, WORKER):
        fault, call = faults.get(worker, ("none", 0))
        flags_ = [
            f"--workers={','.join(addresses)}",
            f"--worker={worker}",
            "--dataset=synthetic_nuclei",
            f"--data_dir={trial_folder.folder / 'data'}",
        ]
        words = [*flags_, f"--workdir={trial_folder.workdir}", *(f"--gin_param={param}" for param in PARAMS)]
        command = [sys.executable, str(Path(__file__).with_name("faulty_run.py")), fault, str(call), "train", *words]
        prefix = network.prefix(worker) if network else []
        environment = os.environ | {"FLEXSEG_TRACE": str(trial_folder.folder / f"trace_{worker}")}
        log = open(trial_folder.folder / f"said_{worker}", "w")  # noqa: SIM115  (the process writes it)
        said.append(Path(log.name))
        running.append(subprocess.Popen([*prefix, *command], stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True))
    deadline, cut_at, ended_at = time.monotonic() + seconds, None, None
    while any(process.poll() is None for process in running) and time.monotonic() < deadline:
        time.sleep(0.05)
        if cut is not None and cut_at is None and "epoch 1  step" in said[CHIEF].read_text():
            cut_at = time.monotonic() + cut
        if cut_at is not None and time.monotonic() > cut_at:
            network.cut()
            cut = cut_at = None
        if ended_at is None and any(process.poll() is not None for process in running):
            ended_at = time.monotonic()
        suspended = [process for process in running if process.poll() is None and _is_suspended(process.pid)]
        if suspended and ended_at:  # as a launcher does with a worker that outlives the others
            for process in suspended:
                process.kill()
    codes = [process.poll() for process in running]
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return codes, [path.read_text() for path in said]


def _is_suspended(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def resumed_at(said: str) -> int:
    """The step from which a start resumed."""
    found = re.search(r"resumed after epoch \d+, step (\d+)", said)
    return int(found[1]) if found else 0


def outcome(workdir: Path) -> tuple[dict, dict]:
    """(last checkpoint and CSV files, best weights), bytes by name."""

    def arrays(folder: Path) -> dict[str, bytes]:
        return {f"{part} {name}": array.tobytes() for part, found in read_checkpoint(folder)[0].items() for name, array in found.items()}

    tables = {name: (workdir / name).read_bytes() for name in ("train_losses.csv", "train_metrics.csv")}
    return arrays(checkpoint_folders(RunLayout(workdir).checkpoints)[-1]) | tables, arrays(RunLayout(workdir).best)
