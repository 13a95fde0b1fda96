"""The trials of fault injection.

Usage:
    for trial in trials(random.Random(0)):
        trial.row, trial.faults
"""

import dataclasses
import functools
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.workers import CHIEF, EPOCHS, STEPS, WORKER, TrialFolder
from flexseg.runs.checkpoint_format import facts_file, part_file

NAMES = {(CHIEF,): "chief", (WORKER,): "worker", (CHIEF, WORKER): "both"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One fault.

    Attributes:
      row: its row in the table.
      faults: {worker: (fault, call)}, see faulty_run.py.
      codes: allowed exit codes of the start with the fault.
      between: called before the second start.
      before: called before the first start; returns a function that undoes it, called before the second start.
      cut: seconds after the first epoch at which the network is cut.
      compared_with: {worker: (fault, call)} of the run to compare with; default none.
    """

    row: str
    faults: dict = dataclasses.field(default_factory=dict)
    codes: frozenset[int]
    between: Callable[[TrialFolder], None] = lambda trial_folder: None
    before: Callable[[TrialFolder], Callable[[], None]] | None = None
    cut: float | None = None
    compared_with: dict = dataclasses.field(default_factory=dict)


def trials(draw: random.Random) -> list[Trial]:
    """All trials, with random calls."""
    found = []
    killed = {-signal.SIGKILL, 75}
    last = EPOCHS * STEPS
    places = {"step": ("step", 2, last), "validation": ("validation", 2, 2 * EPOCHS), "checkpoint": ("saving", 2, 5)}
    for workers in NAMES:
        for phase, (fault, least, most) in places.items():
            for _ in range(2):
                call = draw.randint(least, most)
                faults = {worker: ("checkpoint" if phase == "checkpoint" and worker == CHIEF else fault, call) for worker in workers}
                found.append(Trial(row=f"SIGKILL of {NAMES[workers]}, {phase}", faults=faults, codes=frozenset(killed)))
    for name, code in (("SIGTERM", 143), ("SIGUSR1", 75), ("SIGINT", 130)):
        for worker in (CHIEF, WORKER):
            for phase, prefix, most in (("step", "", last - 1), ("validation", "validation_", 2 * EPOCHS)):
                fault = {worker: (prefix + name, draw.randint(2, most))}
                found.append(Trial(row=f"{name} at {NAMES[(worker,)]}, {phase}", faults=fault, codes=frozenset({code})))
    for worker in (CHIEF, WORKER):
        for _ in range(2):
            call = draw.randint(2, last)
            found.append(
                Trial(
                    row=f"NaN on the replica of {NAMES[(worker,)]}",
                    faults={worker: ("nan", call)},
                    codes=frozenset({0}),
                    compared_with={1 - worker: ("nan", call)},
                )
            )
        for fault in ("hang", "validation_hang"):
            row = f"{NAMES[(worker,)]} hangs, {'validation' if 'validation' in fault else 'step'}"
            found.append(Trial(row=row, faults={worker: (fault, draw.randint(3, last // 2))}, codes=frozenset({75})))
        stopped = {worker: ("SIGSTOP", draw.randint(3, last - 2))}
        found.append(Trial(row=f"{NAMES[(worker,)]} suspended for ever (SIGSTOP)", faults=stopped, codes=frozenset({75, -signal.SIGKILL})))
        found.append(Trial(row=f"{NAMES[(worker,)]} slow: a second more, five times", faults={worker: ("slow", 3)}, codes=frozenset({0})))
    for row, damage in DAMAGES.items():
        fault = {CHIEF: ("step", draw.randint(8, last))}
        found.append(Trial(row=f"damaged newest checkpoint: {row}", faults=fault, codes=frozenset(killed), between=damage))
    for call in (2, 5):
        found.append(Trial(row="full disk while a checkpoint is written", faults={CHIEF: ("full_disk", call)}, codes=frozenset({74, 75})))
    for split in ("train", "valid"):
        spoil = functools.partial(garble, split=split)
        found.append(Trial(row=f"damaged shard ({split}), brought back", codes=frozenset({1, 75}), before=spoil))
    for _ in range(3):
        found.append(Trial(row="network cut between two hosts", codes=frozenset({75}), cut=draw.uniform(0.0, 1.0)))
    return found


def flip(path: Path, index: int = -100) -> None:
    """Flips one bit of a file."""
    data = bytearray(path.read_bytes())
    data[index] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[TrialFolder], None]] = {
    "a flipped bit": lambda trial_folder: flip(part_file(trial_folder.newest, "optimizer")),
    "cut off": lambda trial_folder: os.truncate(part_file(trial_folder.newest, "model"), 1000),
    "a file missing": lambda trial_folder: part_file(trial_folder.newest, "model").unlink(),
    "facts garbled": lambda trial_folder: flip(facts_file(trial_folder.newest), 5),
}


def garble(trial_folder: TrialFolder, *, split: str) -> Callable[[], None]:
    """Flips a bit of a shard, and returns a function that restores it."""
    shard = trial_folder.shard(split)
    sound = shard.read_bytes()
    flip(shard)
    return lambda: shard.write_bytes(sound) and None
