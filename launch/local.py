"""Run several workers on this host as one program: one `flexseg train` per worker, restarted after a fault.

    python -m flexseg.launch.local --workers=2 -- train --dataset=my_set --workdir=runs/my_run

Each line of output begins with the index of its worker. The visible GPUs are distributed evenly. Signals are forwarded. When one worker fails, the
others are ended. After exit code 75 ("run me again") all workers are restarted, up to --max_restarts times and as long as each attempt wrote a newer
checkpoint. Any other exit code ends the launcher, which returns it.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from types import FrameType

from flexseg.runs.checkpoint_format import checkpoint_folders
from flexseg.runs.layout import RunLayout

AGAIN = 75
_PASSED_ON = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
_GRACE_SECONDS = 60.0  # for the others to notice and to write a checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the workers and returns the exit code."""
    parser = argparse.ArgumentParser(prog="flexseg.launch.local", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, required=True, help="processes to start")
    parser.add_argument("--max_restarts", type=int, default=10, help="starts after the first one (default: 10)")
    parser.add_argument("command", nargs="+", help="train and its flags, behind --")
    given = parser.parse_args(arguments)
    if given.workers < 1 or given.max_restarts < 0:
        parser.error("--workers must be at least 1 and --max_restarts at least 0")
    gpus = visible_gpus()
    if gpus and len(gpus) % given.workers:
        parser.error(f"--workers={given.workers} does not divide the {len(gpus)} visible GPUs; CUDA_VISIBLE_DEVICES chooses some of them")
    asked: list[int] = []
    attempt, newest = Attempt(given.command, given.workers, gpus), newest_checkpoint(given.command)

    def pass_on(number: int, _: FrameType | None) -> None:
        asked.append(number)
        attempt.send(number)

    handlers = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        for restarts in range(given.max_restarts + 1):
            code = attempt.run()
            if code != AGAIN or asked:
                return code
            before, newest = newest, newest_checkpoint(given.command)
            if newest == before:
                print("local: no step was gained since the last start, so there is no other one", flush=True)
                return code
            if restarts < given.max_restarts:
                print(f"local: start {restarts + 2} of at most {given.max_restarts + 1}, from checkpoint {newest}", flush=True)
        return code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class Attempt:
    """One start of all workers.

    Args:
      command: arguments of `flexseg`.
      count: number of workers.
      gpus: names of the visible GPUs, distributed evenly; empty for none.
    """

    def __init__(self, command: Sequence[str], count: int, gpus: Sequence[str]):
        self._command, self._count, self._gpus = list(command), count, list(gpus)
        self._processes: list[subprocess.Popen] = []

    def run(self) -> int:
        """Starts all workers, waits for them, and returns the exit code."""
        addresses = ",".join(free_addresses(self._count))
        self._processes = [self._start(worker, addresses) for worker in range(self._count)]
        printers = [threading.Thread(target=_print_lines, args=(worker, process.stdout)) for worker, process in enumerate(self._processes)]
        for printer in printers:
            printer.start()
        deadline, step = None, 0
        while any(process.poll() is None for process in self._processes):
            if deadline is None and any(process.poll() for process in self._processes):
                deadline = time.monotonic() + _GRACE_SECONDS
            if deadline is not None and time.monotonic() > deadline:  # SIGTERM first, as from a scheduler, then SIGKILL
                self.send((signal.SIGTERM, signal.SIGKILL)[min(step, 1)])
                deadline, step = time.monotonic() + _GRACE_SECONDS / 2, step + 1
            time.sleep(0.1)
        for printer in printers:
            printer.join()
        return _decisive_code([process.returncode for process in self._processes])

    def send(self, number: int) -> None:
        """Sends a signal to all running workers."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def _start(self, worker: int, addresses: str) -> subprocess.Popen:
        environment = dict(os.environ)
        environment.pop("TF_CONFIG", None)
        if self._gpus:
            each = len(self._gpus) // self._count
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpus[worker * each : (worker + 1) * each])
        cluster = [f"--workers={addresses}", f"--worker={worker}"] if self._count > 1 else []
        command = [sys.executable, "-P", "-m", "flexseg.commands.dispatcher", *self._command, *cluster]
        # In a session of its own, so that Ctrl-C reaches a worker once, through this process.
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
        )


def _print_lines(worker: int, stream: Iterable[str]) -> None:
    for line in stream:
        print(f"[{worker}] {line.rstrip()}", flush=True)


def _decisive_code(codes: Sequence[int]) -> int:
    """The code of a worker that failed by itself, else 75, the answer of the others to a lost worker; a killed worker is a lost one."""
    own = [code for code in codes if code > 0 and code != AGAIN]
    if own:
        return own[0]
    return AGAIN if any(codes) else 0


def newest_checkpoint(command: Sequence[str]) -> str:
    """Name of the newest checkpoint in the --workdir of a command; empty if there is none."""
    workdirs = [after for word, after in zip(command, [*command[1:], ""], strict=True) if word == "--workdir"]
    workdirs += [word.partition("=")[2] for word in command if word.startswith("--workdir=")]
    folders = [folder for workdir in workdirs[-1:] for folder in checkpoint_folders(RunLayout(workdir).checkpoints)]
    return folders[-1].name if folders else ""


def visible_gpus() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES: its present value, else the GPUs that nvidia-smi lists."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name and name != "-1"]
    try:
        listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number, _ in enumerate(line for line in listing.splitlines() if line.startswith("GPU "))]


def free_addresses(count: int) -> list[str]:
    """host:port of `count` free ports of this machine."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


if __name__ == "__main__":
    sys.exit(main())
