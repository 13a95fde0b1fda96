"""Who trains together: flags, TF_CONFIG as Kubernetes and Vertex AI set it, the variables of a Slurm step."""

import json

import pytest

from flexseg.distribution.cluster import find_cluster
from flexseg.errors import UserError

TWO = ["a:2222", "b:2222"]
# The variables that srun(1) documents, for the fourth of five tasks on three nodes.
SLURM = {
    "SLURM_JOB_ID": "1217", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "5", "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_NODELIST": "gpu[9-11]", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURMD_NODENAME": "gpu10", "SLURM_NODEID": "1",
}  # fmt: skip


def found(distribution="auto", workers=(), worker=None, **environment):
    return find_cluster(distribution=distribution, workers=workers, worker=worker, environment=environment)


def tf_config(cluster, kind="worker", index=0) -> str:
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def test_without_a_source_a_process_is_alone():
    assert found() is None and found("one_device") is None and found("mirrored") is None


def test_flags_go_before_what_the_environment_says():
    cluster = found(workers=TWO, worker=1, TF_CONFIG=tf_config({"worker": ["c:1", "d:1", "e:1"]}))
    assert cluster.addresses == ("a:2222", "b:2222") and cluster.index == 1
    assert json.loads(cluster.tf_config) == {"cluster": {"worker": TWO}, "task": {"type": "worker", "index": 1}}


@pytest.mark.parametrize(("kind", "index", "expected"), [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)])
def test_the_chief_of_vertex_ai_is_worker_0(kind, index, expected):
    cluster = found(TF_CONFIG=tf_config({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, kind, index))
    assert cluster.addresses == ("a:1", "b:1", "c:1") and cluster.index == expected


def test_a_slurm_step_counts_its_tasks_node_by_node_in_slurms_order():
    cluster = found(**SLURM)
    hosts, ports = zip(*(address.split(":") for address in cluster.addresses), strict=True)
    assert hosts == ("gpu9", "gpu9", "gpu10", "gpu10", "gpu11"), "not gpu10 first, as sorting by letters would have it"
    assert cluster.index == 3
    assert len(set(cluster.addresses)) == 5 and all(1024 < int(port) < 32768 for port in ports)
    other = found(**{**SLURM, "SLURM_JOB_ID": "1218"})
    assert not {*other.addresses} & {*cluster.addresses}, "two jobs may share a node"


def test_a_script_of_slurm_that_was_not_started_with_srun_is_alone():
    assert found(SLURM_JOB_ID="1", SLURM_NTASKS="4", SLURM_PROCID="0") is None


@pytest.mark.parametrize("distribution", ["one_device", "mirrored"])
def test_who_wants_one_process_gets_it_inside_a_cluster(distribution):
    assert found(distribution, **SLURM) is None and found(distribution, TF_CONFIG=tf_config({"worker": TWO})) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"distribution": "multi_worker"}, "two or more workers from --workers, TF_CONFIG or a Slurm step, found this process alone"),
        ({"distribution": "multi_worker", "TF_CONFIG": tf_config({"worker": ["a:1"]})}, "found one worker, from TF_CONFIG"),
        ({"distribution": "mirrored", "workers": TWO}, "--workers: expected none with --distribution=mirrored"),
        ({"workers": TWO}, "--worker: expected the number of this process"),
        ({"workers": TWO, "worker": 2}, "a worker from 0 to 1, found 2"),
        ({"workers": ["a:1", "a:1"], "worker": 0}, "an address of its own for every worker"),
        ({"workers": ["a", "b:1"], "worker": 0}, "host:port for every worker, found 'a'"),
        ({"TF_CONFIG": "{"}, "TF_CONFIG: expected .*set it so, or unset it"),
        ({"TF_CONFIG": tf_config({"worker": TWO, "ps": ["c:1"]})}, "cluster of worker, ps"),
        ({"TF_CONFIG": tf_config({"worker": TWO}, "evaluator")}, "task type 'evaluator'"),
        ({**SLURM, "SLURM_STEP_NODELIST": "gpu[9-"}, "the variables that srun sets"),
        ({**SLURM, "SLURMD_NODENAME": "gpu11"}, "task 3 on gpu10, found on gpu11. To fix it: srun --distribution=block"),
    ],
)
def test_what_is_malformed_or_missing_is_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        found(**arguments)
