"""Cluster resolver: finds the workers of a multi-worker run from flags, TF_CONFIG or Slurm.

    cluster = find_cluster(distribution="auto", workers=[], worker=None, environment=os.environ)
    cluster.addresses, cluster.index          # ("node1:12345", "node2:12345"), 0; `cluster` is None for a single process

Sources, in this order: the flags `--workers=host:port,host:port --worker=0`; `TF_CONFIG`, which Kubernetes operators and Vertex AI set (a `chief` is
worker 0); a Slurm step of several tasks, started by `srun`.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence

from flexseg.errors import UserError

_FIRST_PORT, _PORTS = 12000, 16000  # below Linux's range of ephemeral ports (32768 on)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a run and the index of this process.

    Attributes:
      addresses: host:port of each worker.
      index: index of this worker; 0 is the chief.
      source: where it was found, for messages.

    Raises:
      UserError: a malformed or repeated address, or an index out of range.
    """

    addresses: tuple[str, ...]
    index: int
    source: str

    def __post_init__(self) -> None:
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
        """The cluster as a value of TF_CONFIG."""
        return json.dumps({"cluster": {"worker": list(self.addresses)}, "task": {"type": "worker", "index": self.index}})


def find_cluster(*, distribution: str, workers: Sequence[str], worker: int | None, environment: Mapping[str, str]) -> Cluster | None:
    """Finds the cluster of this process; None for a single process.

    Args:
      distribution: `auto` uses a cluster if there is one; `multi_worker` requires one; `one_device` and `mirrored` do not look.
      workers, worker: the flags; empty and None if not given.
      environment: environment variables.

    Raises:
      UserError: a source is malformed, or `multi_worker` finds no cluster.
    """
    if distribution in ("one_device", "mirrored"):
        if workers:
            given = ",".join(workers)
            raise UserError("--workers", expected=f"none with --distribution={distribution}", found=given, cure="--distribution=multi_worker")
        return None
    found: Cluster | None = None
    if workers:
        if worker is None:
            raise UserError("--worker", expected="the number of this process among --workers, from 0", found="none")
        found = Cluster(tuple(workers), worker, "--workers, --worker")
    elif "TF_CONFIG" in environment:
        found = _from_tf_config(environment["TF_CONFIG"])
    elif int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        found = _from_slurm(environment)
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
    # SlurmClusterResolver sorts hosts as text: its rank 0 is on node10 where Slurm's is on node9. So only its parsers are used.
    from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver as slurm

    try:
        hosts = slurm.expand_hostlist(environment["SLURM_STEP_NODELIST"])
        tasks = slurm.expand_tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
        index, job = int(environment["SLURM_PROCID"]), int(environment["SLURM_JOB_ID"])
        step = int(environment.get("SLURM_STEP_ID", 0))
    except (KeyError, ValueError) as error:
        reason = f"{type(error).__name__} {error}"
        raise UserError("Slurm", expected="the variables that srun sets for a step", found=reason, cure="start with srun") from error
    port = _FIRST_PORT + (job * 64 + step * 8) % _PORTS  # different ports for jobs that share a node
    placed = [host for host, count in zip(hosts, tasks, strict=True) for _ in range(count)]
    found = Cluster(tuple(f"{host}:{port + task}" for task, host in enumerate(placed)), index, "Slurm")
    own, host_of_task = environment.get("SLURMD_NODENAME"), found.addresses[index].rpartition(":")[0]
    if own and own != host_of_task:
        raise UserError("Slurm", expected=f"task {index} on {host_of_task}", found=f"on {own}", cure="srun --distribution=block")
    return found
