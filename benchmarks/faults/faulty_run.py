"""Run `flexseg` with a fault at a given call; started by tests and by benchmarks/faults, never imported.

    python benchmarks/faults/faulty_run.py FAULT CALL train --dataset=...

At call number CALL (from 1) of the function that FAULT selects, the process
    step, validation, saving        is killed with SIGKILL: before a step, in the validation, before a checkpoint
    checkpoint                      is killed with half a checkpoint written
    SIGUSR1, SIGTERM, SIGINT        receives that signal at a step; also SIGSTOP, which suspends it
    validation_SIGUSR1, …           receives it at a batch of the validation
    early                           receives SIGTERM before the model is built
    upload                          is killed before it uploads a file to a bucket
    full_disk                       has a full disk while it writes a checkpoint
    hang, validation_hang           waits for ever
    slow                            takes one second longer, at this and the next four calls
    nan                             gets NaN sample weights
    none                            has no fault
If the environment variable FLEXSEG_TRACE names a file, the number of the last dispatched step is written to it.
"""

import errno
import os
import signal
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from flexseg.commands import dispatcher
from flexseg.commands.quiet import load_tensorflow

FAULT, CALL, ARGUMENTS = sys.argv[1], int(sys.argv[2]), sys.argv[3:]


def before(owner, name: str, act, *, times: int = 1) -> None:
    """Calls `act` before calls CALL to CALL + times - 1 of `owner.name`; its result, if any, replaces the arguments."""
    original, calls = getattr(owner, name), []

    def wrapped(*arguments, **keywords):
        calls.append(name)
        if CALL <= len(calls) < CALL + times:
            arguments = act(*arguments) or arguments
        return original(*arguments, **keywords)

    setattr(owner, name, wrapped)


def kill(*_) -> None:
    """Kills this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def send(name: str):
    """A function that sends a signal to this process."""
    return lambda *_: os.kill(os.getpid(), signal.Signals[name])


def wait_for_ever(*_) -> None:
    """Blocks for ever."""
    while True:
        time.sleep(1)


def write_half_and_kill(stream, **_) -> None:
    """Kills the process in the middle of a file."""
    stream.write(b"PK\3\4 half of an archive")
    stream.flush()
    kill()


def fill_the_disk(stream, **_) -> None:
    """Raises ENOSPC in the middle of a file."""
    stream.write(b"PK\3\4 some of it")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def spoil_weights(step, batch):
    """Replaces the sample weights of a batch by NaN."""
    spoiled = step._replicas.strategy.run(lambda weight: weight * float("nan"), args=(batch["weight"],))
    return step, batch | {"weight": spoiled}


def plant() -> None:
    """Patches the function that FAULT selects."""
    from flexseg.distribution.step import TrainStep
    from flexseg.inference.predictor import Predictor
    from flexseg.runs import checkpoint_format
    from flexseg.runs.bucket import Bucket
    from flexseg.runs.checkpoint_manager import CheckpointManager
    from flexseg.training.session import Session
    from flexseg.training.steps import Steps

    targets = {
        "step": (Steps, "advance", kill),
        "validation": (Predictor, "step", kill),
        "saving": (CheckpointManager, "save", kill),
        "checkpoint": (checkpoint_format.np, "savez", write_half_and_kill),
        "full_disk": (checkpoint_format.np, "savez", fill_the_disk),
        "upload": (Bucket, "upload", kill),
        "early": (Session, "_make", send("SIGTERM")),
        "hang": (Steps, "advance", wait_for_ever),
        "validation_hang": (Predictor, "step", wait_for_ever),
        "slow": (Steps, "advance", lambda *_: time.sleep(1)),
        "nan": (TrainStep, "__call__", spoil_weights),
    }
    if FAULT in targets:
        before(*targets[FAULT], times=5 if FAULT == "slow" else 1)
    elif FAULT != "none":
        owner = (Predictor, "step") if FAULT.startswith("validation_") else (Steps, "advance")
        before(*owner, send(FAULT.removeprefix("validation_")))
    if trace := os.environ.get("FLEXSEG_TRACE"):
        advance, file = Steps.advance, os.open(trace, os.O_WRONLY | os.O_CREAT, 0o644)

        def traced(self, *arguments, **keywords):
            os.pwrite(file, b"%9d" % self.global_step, 0)
            return advance(self, *arguments, **keywords)

        Steps.advance = traced


load_tensorflow()
plant()
sys.exit(dispatcher.run(ARGUMENTS))
