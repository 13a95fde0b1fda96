"""Cluster: the processes that train together, as the command line, TF_CONFIG or Slurm tells.

    cluster = find_cluster(distribution="auto", workers=[], worker=None, environment=os.environ)
    cluster.addresses, cluster.index          # ("node1:12345", "node2:12345"), 0; None where this process is alone

Three sources, in this order: the flags `--workers=host:port,host:port --worker=0`; `TF_CONFIG`, as Kubernetes operators and Vertex AI set it
(a `chief` is worker 0); a Slurm step of several tasks, as `srun` starts it.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence

from flexseg.errors import UserError

_FIRST_PORT, _PORTS = 12000, 16000  # below the range from which Linux takes ports for outgoing connections (32768)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Two or more workers, this process among them.

    Attributes:
      addresses: host:port of each.
      index: of this process; 0 is the chief.
      source: where that was found, in words.
    """

    addresses: tuple[str, ...]
    index: int
    source: str

    def __post_init__(self):
        for address in self.addresses:
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit():
                raise UserError(self.source, expected="host:port for every worker", found=repr(address))
        if len(set(self.addresses)) < len(self.addresses):
            raise UserError(self.source, expected="an address of its own for every worker", found=", ".join(self.addresses))
        if not 0 <= self.index < len(self.addresses):
            raise UserError(self.source, expected=f"a worker from 0 to {len(self.addresses) - 1}", found=str(self.index))

    @property
    def tf_config(self) -> str:
        """The value of TF_CONFIG that says this."""
        return json.dumps({"cluster": {"worker": list(self.addresses)}, "task": {"type": "worker", "index": self.index}})


def find_cluster(*, distribution: str, workers: Sequence[str], worker: int | None, environment: Mapping[str, str]) -> Cluster | None:
    """The cluster of this process, or None when it trains alone.

    Args:
      distribution: `auto` takes what it finds; `one_device` and `mirrored` look for none; `multi_worker` insists on one.
      workers, worker: the flags; empty and None where they were not given.
      environment: of the process.

    Raises:
      UserError: when a source is malformed, or `multi_worker` finds none.
    """
    if distribution in ("one_device", "mirrored"):
        if workers:
            found = ",".join(workers)
            raise UserError("--workers", expected=f"none with --distribution={distribution}", found=found, cure="--distribution=multi_worker")
        return None
    if workers:
        if worker is None:
            raise UserError("--worker", expected="the number of this process among --workers, from 0", found="none")
        found = Cluster(tuple(workers), worker, "--workers, --worker")
    elif "TF_CONFIG" in environment:
        found = _from_tf_config(environment["TF_CONFIG"])
    elif int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        found = _from_slurm(environment)
    else:
        found = None
    if found is not None and len(found.addresses) > 1:
        return found
    if distribution == "multi_worker":
        raise UserError(
            "--distribution=multi_worker",
            expected="two or more workers from --workers, TF_CONFIG or a Slurm step",
            found="this process alone" if found is None else f"one worker, from {found.source}",
            cure="python -m flexseg.launch.local --workers=2 -- train … starts two on this host",
        )
    return None


def _from_tf_config(text: str) -> Cluster:
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        chiefs, workers = list(cluster.get("chief", [])), list(cluster.get("worker", []))
        kind, index = task["type"], int(task["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        example = '{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": {"type": "worker", "index": 0}}'
        raise UserError("TF_CONFIG", expected=example, found=text, cure="set it so, or unset it") from error
    if kind not in ("chief", "worker") or set(cluster) - {"chief", "worker"}:
        found = f"task type {kind!r}, cluster of {', '.join(cluster)}"
        cure = "flexseg trains without parameter servers and evaluators"
        raise UserError("TF_CONFIG", expected="workers, and a chief at most", found=found, cure=cure)
    return Cluster((*chiefs, *workers), index + (len(chiefs) if kind == "worker" else 0), "TF_CONFIG")


def _from_slurm(environment: Mapping[str, str]) -> Cluster:
    # SlurmClusterResolver sorts hosts as text, so that its rank 0 stands on node10 where Slurm's stands on node9: its parsers are used, not itself.
    from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver as slurm

    try:
        hosts = slurm.expand_hostlist(environment["SLURM_STEP_NODELIST"])
        tasks = slurm.expand_tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
        index, job = int(environment["SLURM_PROCID"]), int(environment["SLURM_JOB_ID"])
        step = int(environment.get("SLURM_STEP_ID", 0))
    except (KeyError, ValueError) as error:
        found = f"{type(error).__name__} {error}"
        raise UserError("Slurm", expected="the variables that srun sets for a step", found=found, cure="start with srun") from error
    port = _FIRST_PORT + (job * 64 + step * 8) % _PORTS  # jobs that share a node need ports of their own
    placed = [host for host, count in zip(hosts, tasks, strict=True) for _ in range(count)]
    found = Cluster(tuple(f"{host}:{port + task}" for task, host in enumerate(placed)), index, "Slurm")
    own, told = environment.get("SLURMD_NODENAME"), found.addresses[index].rpartition(":")[0]
    if own and own != told:
        raise UserError("Slurm", expected=f"task {index} on {told}", found=f"on {own}", cure="srun --distribution=block")
    return found
