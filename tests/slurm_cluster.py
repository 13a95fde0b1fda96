"""A real Slurm of two nodes on this machine, for tests: munged, slurmctld and two slurmd on loopback, in namespaces of their own.

    with slurm_cluster(tmp_path) as run:
        run("sbatch", "--parsable", "job.sh")          # a CompletedProcess

Needs root and Debian's slurm-wlm and munge. The nodes are called node9 and node10, whose order by letters is not Slurm's.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "unshare")
NODES = ("node9", "node10")


def missing() -> str:
    """What keeps this machine from it; empty when nothing does."""
    if os.geteuid() != 0:
        return "needs root, for a mount namespace"
    absent = [name for name in PROGRAMS if not shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")]
    return f"needs Debian's slurm-wlm and munge, found no {', '.join(absent)}" if absent else ""


def _ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


@contextlib.contextmanager
def slurm_cluster(place: Path) -> Iterator[Callable[..., subprocess.CompletedProcess]]:
    """Starts all; yields what runs a command there; stops all."""
    control, *ports = _ports(3)
    host = socket.gethostname().partition(".")[0]
    (place / "hosts").write_text(Path("/etc/hosts").read_text() + "".join(f"127.0.0.1 {name}\n" for name in NODES))
    key = place / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    for folder in ("state", "munge", *(f"spool_{name}" for name in NODES)):
        (place / folder).mkdir()
    (place / "munge").chmod(0o755)
    (place / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    nodes = "\n".join(f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1" for name, port in zip(NODES, ports, strict=True))
    (place / "slurm.conf").write_text(f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge/socket
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool_%n
SlurmdPidFile={place}/slurmd_%n.pid
SlurmctldPidFile={place}/slurmctld.pid
SlurmdLogFile={place}/slurmd_%n.log
SlurmctldLogFile={place}/slurmctld.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
MpiDefault=none
SchedulerParameters=requeue_delay=1
MinJobAge=3600
KillWait=20
{nodes}
PartitionName=all Nodes={",".join(NODES)} Default=YES MaxTime=INFINITE State=UP
""")
    environment = {**os.environ, "SLURM_CONF": str(place / "slurm.conf"), "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    daemons = [
        f"munged --foreground --force --key-file={key} --socket={place}/munge/socket --pid-file={place}/munge/pid --log-file={place}/munge/log --seed-file={place}/munge/seed",
        "slurmctld -D",
        *(f"slurmd -D -N {name}" for name in NODES),
    ]
    script = f"mount --bind {place}/hosts /etc/hosts && " + "".join(f"{{ {daemon} & }}; sleep 0.5; " for daemon in daemons) + "wait"
    log = (place / "daemons.log").open("w")
    # A pid namespace too: what its first process leaves behind, jobs most of all, ends with it.
    group = subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c", script],
        env=environment,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )

    def run(*command: str, cwd: Path = place) -> subprocess.CompletedProcess:
        return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120)

    try:
        deadline = time.monotonic() + 60
        while run("sinfo", "--noheader", "--format=%D %t").stdout.split() != [str(len(NODES)), "idle"]:
            if time.monotonic() > deadline:
                logs = "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in place.glob("*.log"))
                raise RuntimeError(f"Slurm did not come up: {run('sinfo').stdout}\n{logs}")
            time.sleep(0.5)
        yield run
    finally:
        os.killpg(group.pid, signal.SIGKILL)
        group.wait()
        log.close()
