"""`flexseg` in a process of its own that meets its fault at a place told in advance; started by tests, never imported.

    python tests/faulty_run.py FAULT CALL train --dataset=...

At call number CALL (from 1) of the function that FAULT names, the process
    step, validation, checkpoint    is killed with SIGKILL: inside an epoch, inside the validation, with half a checkpoint written
    SIGUSR1, SIGTERM, SIGINT        is sent that signal, at a step
    validation_SIGUSR1, …           is sent it at a batch of the validation
    hang                            waits for ever, at a step
    early                           is sent SIGTERM, before the model is built
    full_disk                       finds no room for a checkpoint's arrays
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


def before(owner, name: str, act) -> None:
    """`act` happens before call number CALL of `owner.name`, once."""
    original, calls = getattr(owner, name), []

    def wrapped(*arguments, **keywords):
        calls.append(name)
        if len(calls) == CALL:
            act(*arguments)
        return original(*arguments, **keywords)

    setattr(owner, name, wrapped)


def kill(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ever(*_) -> None:
    while True:
        time.sleep(1)


def plant() -> None:
    from flexseg.inference import weights
    from flexseg.inference.predictor import Predictor
    from flexseg.training.session import Session
    from flexseg.training.steps import Steps

    def write_half_and_kill(stream, **_):
        stream.write(b"PK\3\4 half of an archive")
        stream.flush()
        kill()

    def fill_the_disk(stream, **_):
        stream.write(b"PK\3\4 some of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if FAULT == "step":
        before(Steps, "advance", kill)
    elif FAULT == "validation":
        before(Predictor, "step", kill)
    elif FAULT in ("checkpoint", "full_disk"):
        before(weights.np, "savez", write_half_and_kill if FAULT == "checkpoint" else fill_the_disk)
    elif FAULT == "hang":
        before(Steps, "advance", wait_for_ever)
    elif FAULT.startswith("validation_"):
        before(Predictor, "step", lambda *_: os.kill(os.getpid(), signal.Signals[FAULT.removeprefix("validation_")]))
    elif FAULT == "early":
        before(Session, "_make", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    elif FAULT != "none":
        before(Steps, "advance", lambda *_: os.kill(os.getpid(), signal.Signals[FAULT]))


load_tensorflow()
plant()
sys.exit(dispatcher.run(ARGUMENTS))
