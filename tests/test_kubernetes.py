"""Manifests against Kubernetes's own schemas, and the cluster that their pods derive, with two workers in real processes.

JobSet's schema is not among them: what it wraps, a Job, is checked, and its own few keys are not. No cluster was at hand.
"""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import toy_runs
import yaml
from test_workers import EXACT, LENGTH, assert_is

from flexseg.distribution.cluster import find_cluster
from flexseg.launch.indexed_job import tf_config

FOLDER = Path(__file__).parents[1] / "launch" / "kubernetes"
OLDEST = "1.31"  # the first with podFailurePolicy as a stable part; train.yaml names it


def documents(name: str) -> dict[str, dict]:
    return {document["kind"]: document for document in yaml.safe_load_all((FOLDER / name).read_text())}


def job_of_jobset() -> dict:
    """The Job that the JobSet controller makes of launch/kubernetes/jobset.yaml."""
    (replicated,) = documents("jobset.yaml")["JobSet"]["spec"]["replicatedJobs"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "flexseg-workers-0"}, "spec": replicated["template"]["spec"]}


BUILT_IN = [(path.name, kind) for path in sorted(FOLDER.glob("*.yaml")) for kind in documents(path.name) if kind != "JobSet"]


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize(("name", "kind"), BUILT_IN)
def test_every_manifest_has_its_schema(name, kind, version):
    kubernetes_validate.validate(documents(name)[kind], version, strict=True)


def test_the_job_in_the_jobset_has_its_schema_and_a_misspelt_key_would_be_seen():
    job = job_of_jobset()
    kubernetes_validate.validate(job, OLDEST, strict=True)
    job["spec"]["completionsMode"] = "Indexed"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, OLDEST, strict=True)


@pytest.mark.parametrize("job", [documents("train.yaml")["Job"], job_of_jobset()], ids=["Job", "JobSet"])
def test_the_numbers_and_names_of_a_manifest_belong_together(job):
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    flags = dict(word.partition("=")[::2] for word in container["command"] if word.startswith("--") and "=" in word)
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"] == int(flags["--workers"])
    assert spec["template"]["spec"]["restartPolicy"] == "Never", "podFailurePolicy wants it"
    grace = spec["template"]["spec"]["terminationGracePeriodSeconds"]
    assert int(re.search(r"sleep (\d+)", container["lifecycle"]["preStop"]["exec"]["command"][-1])[1]) < grace
    failing = next(rule for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "FailJob")["onExitCodes"]
    assert failing["containerName"] == container["name"] and set(failing["values"]) == {1, 70}, "75 and a disruption are tried again"
    # pods of an Indexed Job are called after it and their index, in the domain of the headless Service
    assert flags["--hosts"] == f"{job['metadata']['name']}-{{index}}.flexseg:{container['ports'][0]['containerPort']}"


def test_the_service_is_headless_and_finds_the_pods_of_the_job():
    service, job = documents("train.yaml")["Service"], documents("train.yaml")["Job"]
    assert service["spec"]["clusterIP"] == "None" and service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}


def test_every_pod_derives_the_same_cluster_and_its_own_place():
    hosts = "flexseg-{index}.flexseg:2222"
    for index in range(3):
        environment = {"TF_CONFIG": tf_config(hosts, 3, {"JOB_COMPLETION_INDEX": str(index), "HOSTNAME": f"flexseg-{index}"})}
        cluster = find_cluster(distribution="auto", workers=[], worker=None, environment=environment)
        assert cluster.addresses == ("flexseg-0.flexseg:2222", "flexseg-1.flexseg:2222", "flexseg-2.flexseg:2222") and cluster.index == index
    assert tf_config(hosts, 1, {"JOB_COMPLETION_INDEX": "0"}) is None, "a single pod trains alone"


@pytest.mark.parametrize(
    ("hosts", "workers", "index", "words"),
    [("a-{index}:1", 2, "", "completionMode: Indexed"), ("a-{index}:1", 2, "2", "--workers=3 or more"), ("a:1", 2, "0", "{index}")],
)
def test_a_pod_that_does_not_fit_its_job_says_so(hosts, workers, index, words):
    environment = os.environ | {"JOB_COMPLETION_INDEX": index}
    command = [sys.executable, "-m", "flexseg.launch.indexed_job", f"--hosts={hosts}", f"--workers={workers}", "--", "train"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_pods_train_as_one_process_does(toy, tmp_path):
    toy_runs.train(toy, tmp_path / "one", *EXACT, *LENGTH)
    words = toy_runs.train_command_line(toy, tmp_path / "two", *EXACT, *LENGTH)
    launcher = [sys.executable, "-m", "flexseg.launch.indexed_job", "--hosts=127.0.0.1:2746{index}", "--workers=2", "--", *words]
    pods = [
        subprocess.Popen(launcher, env=os.environ | {"JOB_COMPLETION_INDEX": str(index)}, stdout=subprocess.PIPE, text=True) for index in range(2)
    ]
    said = [pod.communicate(timeout=300)[0] for pod in pods]
    assert [pod.returncode for pod in pods] == [0, 0] and "2 workers × 1 × CPU (TF_CONFIG: 127.0.0.1:27460" in said[0]
    assert_is(tmp_path / "two", tmp_path / "one")


def test_the_documents_name_every_manifest():
    page = (Path(__file__).parents[1] / "docs" / "training" / "hosts.md").read_text()
    assert all(path.name in page for path in itertools.chain(FOLDER.glob("*.yaml"), FOLDER.parent.glob("slurm/*"), FOLDER.parent.glob("docker/*")))


PODS = {
    "train.yaml": documents("train.yaml")["Job"]["spec"]["template"]["spec"],
    "jobset.yaml": job_of_jobset()["spec"]["template"]["spec"],
    "tensorboard.yaml": documents("tensorboard.yaml")["Deployment"]["spec"]["template"]["spec"],
}


@pytest.mark.parametrize("name", PODS)
def test_no_pod_runs_as_root_with_privileges_or_a_root_file_system_to_write_to(name):
    pod = PODS[name]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0 and not pod["automountServiceAccountToken"]
    for container in pod["containers"]:
        own = container["securityContext"]
        assert not own["allowPrivilegeEscalation"] and own["readOnlyRootFilesystem"] and own["capabilities"] == {"drop": ["ALL"]}
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}, "HOME and temporary files"


@pytest.mark.parametrize("name", ["train.yaml", "jobset.yaml"])
def test_the_workers_port_is_open_to_their_own_pods_alone(name):
    policy = documents(name)["NetworkPolicy"]["spec"]
    (rule,) = policy["ingress"]
    assert policy["policyTypes"] == ["Ingress"] and rule["from"] == [{"podSelector": policy["podSelector"]}]
    assert "ports" not in rule, "NCCL chooses ports of its own"


def test_tensorboard_listens_on_the_pod_s_loopback():
    assert "--host=127.0.0.1" in PODS["tensorboard.yaml"]["containers"][0]["command"] and "Service" not in documents("tensorboard.yaml")
