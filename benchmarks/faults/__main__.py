"""Inject faults into training with two workers, restart until it finishes, and compare the weights with those of an undisturbed run.

    python -m benchmarks.faults                          # all trials; prints the table of docs/measurements.md
    python -m benchmarks.faults --only='SIGKILL|hang'    # trials whose row matches
    python -m benchmarks.faults --seed=1                 # faults at other steps

A trial starts the workers with a fault (benchmarks/faults/faulty_run.py), then repeats the command without it, as a launcher would, until it ends
with 0. At the end all arrays of the last checkpoint and of the best weights, and both CSV files, must equal those of an undisturbed run bit for bit
(train.deterministic). A start that takes longer than --seconds counts as a hang. Exit code 1 if any trial hangs or differs.

The network is cut between two network namespaces, which needs root and `ip`; otherwise these trials are skipped with a message.
"""

import collections
import contextlib
import dataclasses
import os
import random
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from absl import app, flags

from benchmarks.faults.network import Network
from benchmarks.faults.trials import Trial, trials
from benchmarks.faults.workers import CHIEF, TrialFolder, outcome, resumed_at, start
from flexseg.commands import build

FLAGS = flags.FLAGS
flags.DEFINE_string("only", "", "Regular expression: the rows to try.")
flags.DEFINE_integer("seed", 0, "Of the moments of the faults.")
flags.DEFINE_float("seconds", 180, "A start that takes longer is a hang.", lower_bound=1)
flags.DEFINE_boolean("verbose", False, "Print what every process said in a trial that went wrong.")


@dataclasses.dataclass
class Result:
    """The result of a trial; `lost` is the number of steps that were repeated."""

    codes: list
    lost: int
    starts: int
    wrong: str


def run(trial: Trial, folder: Path, data: Path, network: Network | None, whole: Callable[[dict], tuple[dict, dict]]) -> Result:
    """Runs one trial to its end."""
    trial_folder = TrialFolder(folder)
    shutil.copytree(data, folder / "data")
    undo = trial.before(trial_folder) if trial.before else None
    first, said = start(trial_folder, trial.faults, network if trial.cut is not None else None, trial.cut, seconds=FLAGS.seconds)
    reached = trial_folder.reached()
    if None in first:
        return Result(first, 0, 1, "HANG\n" + "\n".join(said))
    if not set(first) <= trial.codes:
        return Result(first, 0, 1, f"expected {sorted(trial.codes)}\n" + "\n".join(said))
    if undo:
        undo()
    if network and trial.cut is not None:
        network.restore()
    trial.between(trial_folder)
    codes, lost, starts = first, 0, 1
    while any(codes):
        if starts == 4:
            return Result(first, lost, starts, "never ends\n" + "\n".join(said))
        codes, said = start(trial_folder, {}, None, seconds=FLAGS.seconds)
        starts += 1
        if starts == 2:
            lost = max(0, reached - resumed_at(said[CHIEF]))
        if None in codes:
            return Result(first, lost, starts, "HANG\n" + "\n".join(said))
    expected = whole(trial.compared_with)
    pairs = zip(("final weights", "best weights"), outcome(trial_folder.workdir), expected, strict=True)
    wrong = [name for name, mine, theirs in pairs if mine != theirs]
    return Result(first, lost, starts, f"{' and '.join(wrong)} DIFFER" if wrong else "")


def main(_) -> None:
    """Runs all trials."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes ignore SIGINT, and workers inherit that
    wanted = [trial for trial in trials(random.Random(FLAGS.seed)) if re.search(FLAGS.only, trial.row)]
    if os.getuid() != 0 or shutil.which("ip") is None:
        print("the network is not cut: that needs root and `ip`")
        wanted = [trial for trial in wanted if trial.cut is None]
    rows: dict[str, list[Result]] = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder, known = Path(name), {}
        data = folder / "data"
        sizes = ["synthetic_nuclei.image_size=(32,32)", "synthetic_nuclei.slides=(3,1,1)", "synthetic_nuclei.images_per_slide=6"]
        with contextlib.redirect_stdout(None):  # hides the output of the build
            build.run(dataset="synthetic_nuclei", data_dir=str(data), gin_param=sizes)

        def whole(faults: dict) -> tuple[dict, dict]:
            key = repr(faults)
            if key not in known:
                trial_folder = TrialFolder(folder / f"whole_{len(known)}")
                shutil.copytree(data, trial_folder.folder / "data")
                codes, said = start(trial_folder, faults, None, seconds=FLAGS.seconds)
                assert codes == [0, 0], "\n".join(said)
                known[key] = outcome(trial_folder.workdir)
            return known[key]

        for number, trial in enumerate(wanted):
            trial_folder = folder / f"trial_{number}"
            trial_folder.mkdir()
            with Network(number).made() if trial.cut is not None else contextlib.nullcontext() as network:
                result = run(trial, trial_folder, data, network, whole)
            rows[trial.row].append(result)
            wrong = result.wrong if FLAGS.verbose else result.wrong.partition("\n")[0]
            what = f"{trial.row}: {trial.faults}, ended with {result.codes}, {result.lost} steps lost"
            print(f"{number + 1:3} of {len(wanted)}  {what}  {wrong}", flush=True)
            shutil.rmtree(trial_folder)
    print("\n| fault | trials | ended with | steps lost, at most | final and best weights |\n|---|---|---|---|---|")
    for row, results in rows.items():
        codes = " or ".join(sorted({", ".join(str(code) for code in sorted(set(result.codes), key=str)) for result in results}))
        wrong = "; ".join(sorted({result.wrong.partition("\n")[0] for result in results if result.wrong})) or "equal"
        print(f"| {row} | {len(results)} | {codes} | {max(result.lost for result in results)} | {wrong} |")
    failed = sum(bool(result.wrong) for results in rows.values() for result in results)
    print(f"\n{sum(map(len, rows.values()))} trials, {failed} of them hung, ended otherwise than they should, or with other weights")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    app.run(main)
