"""Claim: a locked run directory, once all workers agree on what they are about to do.

Usage:
    with claimed(run, replicas, dataset, facts={"configuration": text}, check_config=..., tracebacks_to=...) as claim:
        session.train(claim, ...)
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from flexseg import machine
from flexseg.data.dataset import BuiltDataset
from flexseg.distribution.agreement import agree
from flexseg.distribution.replicas import Replicas
from flexseg.errors import UserError
from flexseg.runs.directory import RunDirectory
from flexseg.runs.interruption import Interrupted, Interruption
from flexseg.runs.lock import FolderLock

_PACKAGES = ("flexseg", "tensorflow", "keras", "numpy")  # whose versions must be the same on all workers
_CURES = {machine.VARIABLE: f"on all workers {machine.VARIABLE}={{}} flexseg train …"}


@dataclasses.dataclass(frozen=True)
class Claim:
    """A locked run directory.

    Attributes:
      interruption: listens for signals and the stop file.
      check: raises a UserError where the lock is lost; call it after every step and every batch of validation.
    """

    interruption: Interruption
    check: Callable[[], None]


@contextlib.contextmanager
def claimed(
    run: RunDirectory,
    replicas: Replicas,
    dataset: BuiltDataset,
    *,
    facts: Mapping[str, str],
    check_config: Callable[[], None],
    check_machine: Callable[[], None] = lambda: None,
    tracebacks_to: Callable[[Path | None], None],
) -> Iterator[Claim]:
    """Locks the directory on the chief and compares the workers; the lock goes when the context ends.

    Args:
      run: the directory, which need not exist. A run that is refused or stopped before it began leaves nothing.
      replicas: the devices.
      dataset: what the run trains on.
      facts: must be the same on all workers, beside versions, dataset, devices and oneDNN.
      check_config: raises a UserError when the directory holds a run of another configuration.
      check_machine: raises a UserError when this worker lacks something that it needs.
      tracebacks_to: receives the file that tracebacks go to.

    Raises:
      UserError: the directory holds another run, or workers differ.
    """

    def refuse_another_run() -> None:
        if run.started:
            check_config()
            run.read_environment()
        run.refuse_other_dataset(dataset.directory)

    fresh, check, refusal = not run.path.exists(), lambda: None, None
    with contextlib.ExitStack() as stack:
        interruption = stack.enter_context(Interruption(run.stop_file))
        if replicas.is_chief:
            try:
                if run.remote:
                    run.remote.fetch(leave=run.remote.large)
                run.refuse_foreign_files()
                refuse_another_run()
                run.make()
                if fresh:
                    stack.callback(run.remove_if_empty)
                check = stack.enter_context(FolderLock(run.lock_file, what="flexseg train")).check
                tracebacks_to(run.log)
                run.remove_leftovers()
                if run.remote:
                    stack.enter_context(run.remote.owned())
                refuse_another_run()  # another process may have begun one between the look above and the lock
            except UserError as error:
                refusal = error
        try:
            check_machine()
        except UserError as error:
            refusal = refusal or error
        try:
            agree(replicas, {**facts, **_machine(replicas, dataset)}, refusal=refusal, cures=_CURES)
            yield Claim(interruption, check)
        except (UserError, Interrupted):
            if replicas.is_chief and fresh and not run.started:
                tracebacks_to(None)
                run.remove_log()
            raise


def _machine(replicas: Replicas, dataset: BuiltDataset) -> dict[str, str]:
    return {
        "dataset": f"{dataset.name}, manifest {hashlib.sha256((dataset.directory / 'manifest.json').read_bytes()).hexdigest()[:16]}",
        "packages": "\n".join(f"{name} {metadata.version(name)}" for name in _PACKAGES),
        "devices": f"{replicas.workers} workers × {replicas.local_count}",
        machine.VARIABLE: str(int(machine.onednn_in_use())),
    }
