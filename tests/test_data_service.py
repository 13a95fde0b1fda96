"""Input on other hosts: real servers, the same batches to the bit, and what happens when one is gone."""

import contextlib
import shutil

import numpy as np
import processes
import pytest
import toy_runs
from toys import slow_unless

from flexseg.data.augmentation import Augment
from flexseg.data.data_service import refuse_unreachable
from flexseg.data.dataset import open_dataset
from flexseg.data.settings import InputSettings
from flexseg.data.stream import Stream
from flexseg.errors import UserError
from flexseg.launch.local import free_addresses

pytestmark = pytest.mark.xdist_group("data_service")  # the hosts are started once

PARAMS = ("augment.enabled=True", "input.fit='random_crop'", "input.eval_fit='resize'", "train.steps_per_epoch=3", "train.deterministic=True")


@contextlib.contextmanager
def serving(count: int, *, host: str = "127.0.0.1"):
    """(addresses, processes) of so many hosts, whose workers call themselves `host`."""
    ports = [int(address.rpartition(":")[2]) for address in free_addresses(2 * count)]
    started = [
        processes.start("flexseg.launch.data_service:main", [f"--host={host}", f"--port={port}", f"--worker_port={own}"])
        for port, own in zip(ports[::2], ports[1::2], strict=True)
    ]
    try:
        for process in started:
            process.wait_for("serving")
        yield [f"grpc://127.0.0.1:{port}" for port in ports[::2]], started
    finally:
        for process in started:
            process.kill()
            process.wait(60)


@pytest.fixture(scope="module")
def hosts():
    with serving(3) as (addresses, _):
        yield addresses


def batches(toy, steps, first_step, **place):
    records, settings = toy.records("train"), {"inputs": InputSettings(image_size=(32, 32), fit="random_crop"), "augment": Augment(enabled=True)}
    stream = Stream(records, **settings, background=0, seed=3, global_batch_size=8)
    return list(stream.batches(first_step, **place).take(steps * place["replicas"]).as_numpy_iterator())


@pytest.mark.parametrize(("first", "count", "place"), [
    slow_unless(False, 0, 1, {"replicas": 1}), slow_unless(False, 7, 2, {"replicas": 2}), (7, 3, {"replicas": 2, "workers": 2, "worker": 1}),  # 19 records: from step 7 over the end of a pass
])  # fmt: skip
def test_batches_are_the_same_whatever_the_number_of_hosts(toy, hosts, first, count, place):
    here, there = batches(toy, 5, first, **place), batches(toy, 5, first, **place, hosts=hosts[:count])
    np.testing.assert_equal(there, here)
    assert len({batch["image"].tobytes() for batch in here}) == len(here)


def test_a_run_with_input_from_two_hosts_ends_with_the_same_bits(toy, tmp_path, hosts):
    toy_runs.train(toy, tmp_path / "here", *PARAMS, "train.epochs=2")
    toy_runs.train(toy, tmp_path / "there", *PARAMS, "train.epochs=1", data_service=hosts[:2])
    assert "resumed" in toy_runs.train(toy, tmp_path / "there", *PARAMS, "train.epochs=2", data_service=hosts[1:])
    assert toy_runs.outcome(tmp_path / "there") == toy_runs.outcome(tmp_path / "here")


def test_what_is_no_host_that_answers_is_refused(hosts):
    (silent,) = free_addresses(1)
    for addresses, words in (
        (["127.0.0.1:5050"], "grpc://host:port"), (["grpc://127.0.0.1"], "grpc://host:port"), (["grpc://127.0.0.1:port"], "grpc://host:port"),
        (["grpc://a..b:1"], "a server at"), (hosts[:1] * 2, "every host once"), ([f"grpc://{silent}"], r"a server at grpc://.*flexseg\.launch\.data_service --port="),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            refuse_unreachable(addresses)
    refuse_unreachable(hosts)


@pytest.mark.slow
def test_a_worker_under_a_name_that_nobody_knows_is_refused_and_the_command_ends(toy, tmp_path):
    with serving(1, host="no.such.host.invalid") as (addresses, _):
        words = toy_runs.train_command_line(toy, tmp_path / "run", *PARAMS, data_service=addresses[0])
        done = processes.start("flexseg.commands.dispatcher:run", words).wait(120)
    assert done.returncode == 1 and f"expected data from {addresses[0]}, found none" in done.stderr and "--host=NAME" in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()


def test_images_in_memory_are_refused_beside_it(toy, tmp_path, hosts):
    with pytest.raises(UserError, match=r"input\.cache = 'off'"):
        toy_runs.train(toy, tmp_path / "run", "input.cache='ram'", data_service=hosts)


def test_a_port_that_is_taken_is_said(hosts):
    port = hosts[0].rpartition(":")[2]
    for wanted in (port, 65536):
        done = processes.start("flexseg.launch.data_service:main", [f"--port={wanted}"]).wait(120)
        assert done.returncode == 1 and f"expected port {wanted} to be free" in done.stderr and "Traceback" not in done.stderr


def test_a_damaged_record_is_named_though_another_host_read_it(toy, tmp_path, hosts):
    shutil.copytree(toy.directory.parents[2], tmp_path / "data")
    shard = next((tmp_path / "data").glob("*/toy/*/*-train.tfrecord*"))
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    words = toy_runs.train_command_line(
        open_dataset("toy", str(tmp_path / "data")), tmp_path / "run", "train.steps_per_epoch=6", data_service=",".join(hosts)
    )
    done = processes.start("flexseg.commands.dispatcher:run", words).wait(240)
    assert done.returncode == 1 and f"{shard.name}: expected sound TFRecords, found record" in done.stderr, done.stderr


@pytest.mark.slow
def test_a_host_that_is_gone_ends_the_run_with_75_and_it_goes_on(toy, tmp_path):
    # Far more steps than a trainer has batches in stock (tf.data asks every host for about 16 ahead).
    longer = (
        *PARAMS,
        "train.epochs=4",
        "train.steps_per_epoch=30",
        "train.checkpoint_steps=5",
        "train.watchdog_multiple=20",
        "train.watchdog_minutes=0.2",
    )
    toy_runs.train(toy, tmp_path / "here", *longer)
    with serving(2) as (addresses, started):
        words = toy_runs.train_command_line(toy, tmp_path / "run", *longer, data_service=",".join(addresses))
        trainer = processes.start("flexseg.commands.dispatcher:run", words)
        trainer.wait_for("epoch 1  step")
        started[1].kill()
        ended = trainer.wait(240)
        assert ended.returncode == 75, ended.stdout + ended.stderr
    with serving(1) as (addresses, _):
        assert "resumed" in toy_runs.train(toy, tmp_path / "run", *longer, data_service=addresses)
    assert toy_runs.outcome(tmp_path / "run") == toy_runs.outcome(tmp_path / "here")
