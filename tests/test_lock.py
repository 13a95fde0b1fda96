"""The lock on a run directory: one living holder; a dead or silent one is taken over and named."""

import json
import multiprocessing
import os
import socket
import subprocess
import threading
import time

import pytest

from flexseg.errors import UserError
from flexseg.runs import lock as lock_module
from flexseg.runs.lock import STALE_SECONDS, FolderLock


def hold(path, what="flexseg train"):
    return FolderLock(path, what=what)


def left_behind(path, age=0.0, **other):
    """A lock file that nobody renews."""
    with hold(path):
        holder = json.loads(path.read_text())
    path.write_text(json.dumps(holder | other))
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))


def test_a_lock_is_free_again_after_its_holder(tmp_path):
    for _ in range(2):
        with hold(tmp_path / "lock") as lock:
            lock.check()
            assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir()), "nothing is left"


def test_a_living_holder_is_named_and_keeps_its_lock(tmp_path):
    with hold(tmp_path / "lock", "flexseg train") as first:
        with pytest.raises(UserError, match=rf"flexseg train, process {os.getpid()} on {socket.gethostname()} since .*name another --workdir"):
            hold(tmp_path / "lock").__enter__()
        first.check()
    assert not list(tmp_path.iterdir())


def finished_process() -> int:
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    return process.pid


@pytest.mark.parametrize(
    ("other", "age", "reason"),
    [
        ({"pid": None}, 0, "that process is gone"),  # filled in below
        ({"process_started": 1}, 0, "its number belongs to another"),
        ({"machine": "another"}, STALE_SECONDS + 5, "not heard of for 12"),
    ],
)
def test_a_dead_or_silent_holder_is_taken_over_and_that_is_said(tmp_path, capsys, other, age, reason):
    other = {"pid": finished_process()} if "pid" in other else other
    left_behind(tmp_path / "lock", age, **other)
    with hold(tmp_path / "lock") as lock:
        lock.check()
    said = capsys.readouterr().out
    assert "is taken over: " in said and reason in said
    assert not list(tmp_path.iterdir())


def test_a_holder_here_that_lives_is_not_taken_over_however_long_it_was_silent(tmp_path):
    left_behind(tmp_path / "lock", 10 * STALE_SECONDS)
    with pytest.raises(UserError, match="no other process"):
        hold(tmp_path / "lock").__enter__()


@pytest.mark.parametrize("alive", [True, False])
def test_a_start_waits_for_a_sign_of_life_of_a_holder_elsewhere(tmp_path, monkeypatch, capsys, alive):
    left_behind(tmp_path / "lock", 0, machine="another")
    monkeypatch.setattr(lock_module, "STALE_SECONDS", 3.0)
    monkeypatch.setattr(lock_module, "_LOOK_SECONDS", 0.05)
    if alive:
        threading.Timer(1.0, os.utime, (tmp_path / "lock",)).start()
        with pytest.raises(UserError, match="no other process"):
            hold(tmp_path / "lock").__enter__()
    else:
        with hold(tmp_path / "lock"):
            pass
    assert capsys.readouterr().out.count("waiting up to 3 s for a sign of life of process") == 1


def test_a_lock_that_was_cut_off_while_it_was_written_becomes_stale(tmp_path):
    (tmp_path / "lock").write_text('{"what": "flex')
    os.utime(tmp_path / "lock", (1, 1))
    with hold(tmp_path / "lock"):
        pass


def test_a_holder_whose_lock_was_taken_over_learns_it_and_leaves_the_others_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "RENEW_SECONDS", 0.01)
    with hold(tmp_path / "lock") as lock:
        (tmp_path / "lock").write_text('{"pid": 1}')
        lock._renewer.join(5)
        with pytest.raises(UserError, match="the lock of this process"):
            lock.check()
    assert (tmp_path / "lock").read_text() == '{"pid": 1}'


def test_the_holder_renews_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "RENEW_SECONDS", 0.01)
    with hold(tmp_path / "lock"):
        os.utime(tmp_path / "lock", (1, 1))
        for _ in range(500):
            if (tmp_path / "lock").stat().st_mtime > 1000:
                break
            lock_module.time.sleep(0.01)
        assert (tmp_path / "lock").stat().st_mtime > 1000


def _race(path, together, over, results):
    together.wait()
    try:
        with hold(path):
            results.put(os.getpid())
            over.wait()
            assert json.loads(path.read_text())["pid"] == os.getpid()
    except UserError:
        results.put(None)


def test_of_many_that_find_a_stale_lock_at_once_one_gets_it(tmp_path):
    left_behind(tmp_path / "lock", pid=finished_process())
    context = multiprocessing.get_context("spawn")
    together, over, results = context.Barrier(6), context.Event(), context.Queue()
    processes = [context.Process(target=_race, args=(tmp_path / "lock", together, over, results)) for _ in range(6)]
    for process in processes:
        process.start()
    winners = [results.get(timeout=120) for _ in processes]
    over.set()
    for process in processes:
        process.join()
    assert sum(winner is not None for winner in winners) == 1
    assert all(process.exitcode == 0 for process in processes)
    assert not list(tmp_path.iterdir())


def test_a_killed_holder_that_nobody_waits_for_is_gone(tmp_path):
    with subprocess.Popen(["sleep", "100"]) as process:
        left_behind(tmp_path / "lock", pid=process.pid, process_started=lock_module._started(process.pid))
        with pytest.raises(UserError, match="no other process"):
            hold(tmp_path / "lock").__enter__()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        with hold(tmp_path / "lock") as lock:
            lock.check()


# Locks that somebody else made


@pytest.mark.parametrize("kind", ["link to a file", "dangling link", "folder", "pipe"])
def test_a_lock_that_is_no_file_is_a_mistake_of_one_line(tmp_path, kind):
    path = tmp_path / "run.lock"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "elsewhere")
        if kind == "link to a file":
            (tmp_path / "elsewhere").write_text("{}")
    began = time.monotonic()
    with pytest.raises(UserError, match="run.lock: expected the lock of a run, a file, found a (link|folder|pipe)"), FolderLock(path, what="a test"):
        pass
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "[" * 100_000, '{"pid": "1"}', '{"pid": -1, "machine": null}', "{}" + " " * 70_000, "\xff\xfe"],
    ids=lambda text: text[:12],
)
def test_a_lock_of_any_content_that_is_dated_in_the_future_becomes_stale_by_ones_own_clock(tmp_path, text, monkeypatch):
    monkeypatch.setattr(lock_module, "STALE_SECONDS", 0.5)
    monkeypatch.setattr(lock_module, "_LOOK_SECONDS", 0.05)
    path = tmp_path / "run.lock"
    path.write_text(text, encoding="latin-1")
    os.utime(path, (time.time() + 30 * 86400,) * 2)
    began = time.monotonic()
    with FolderLock(path, what="a test") as held:
        held.check()
    assert time.monotonic() - began < 5
