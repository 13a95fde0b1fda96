"""Run `flexseg` as a worker of a Kubernetes Indexed Job or JobSet, with TF_CONFIG from the completion index.

    python -m flexseg.launch.indexed_job --hosts='flexseg-{index}.flexseg:2222' --workers=4 -- train --dataset=my_set --workdir=/runs/my_run

Kubernetes sets JOB_COMPLETION_INDEX in every pod of an Indexed Job and names the pod's host after job and index. A headless Service with the name of
the pods' `subdomain` resolves these names. launch/kubernetes has the manifests. `flexseg` replaces this process, so that it stays process 1 of the
container, which receives the signals of Kubernetes.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence


def tf_config(hosts: str, workers: int, environment: Mapping[str, str]) -> str | None:
    """TF_CONFIG of this pod; None for a single worker.

    Args:
      hosts: host:port of a worker, with {index} for its index.
      workers: number of workers, the `completions` of the Job.
      environment: of the process.

    Raises:
      ValueError: with a message for the user.
    """
    index = environment.get("JOB_COMPLETION_INDEX", "")
    if not index.isdigit():
        raise ValueError(f"expected JOB_COMPLETION_INDEX, as Kubernetes sets it with completionMode: Indexed, found {index!r}")
    if "{index}" not in hosts:
        raise ValueError(f"expected --hosts with {{index}} where a worker's number stands, found {hosts!r}")
    if int(index) >= workers:
        raise ValueError(f"expected --workers={int(index) + 1} or more, the completions of the Job, found --workers={workers} in pod {index}")
    if workers == 1:
        return None
    addresses = [hosts.replace("{index}", str(number)) for number in range(workers)]
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": int(index)}})


def main(arguments: Sequence[str] | None = None) -> None:
    """Replaces this process by `flexseg`; does not return."""
    parser = argparse.ArgumentParser(prog="flexseg.launch.indexed_job", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", required=True, help="host:port of a worker, with {index} where its number stands")
    parser.add_argument("--workers", type=int, required=True, help="completions of the Job")
    parser.add_argument("command", nargs="+", help="train and its flags, behind --")
    given = parser.parse_args(arguments)
    try:
        config = tf_config(given.hosts, given.workers, os.environ)
    except ValueError as error:
        parser.exit(1, f"flexseg.launch.indexed_job: {error}\n")
    environment = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    if config is not None:
        environment["TF_CONFIG"] = config
    os.execve(sys.executable, [sys.executable, "-P", "-m", "flexseg.commands.dispatcher", *given.command], environment)


if __name__ == "__main__":
    main()
