"""The watchdog, in processes of its own: it ends them."""

import os
import signal
import time
from pathlib import Path

import processes
import pytest

from flexseg.runs import watchdog as watchdog_module
from flexseg.runs.watchdog import Watchdog


def stand_still(seconds):
    time.sleep(seconds)


def watched(words) -> int:
    """In a process of its own: ten beats, then so many times nothing for so long."""
    watchdog_module._REPORT_SECONDS = 3.0  # a log that hangs is waited for so long
    minutes, log, still, times = float(words[0]), Path(words[1]), float(words[2]), int(words[3])
    with Watchdog(multiple=4, minutes=minutes, report_to=log) as watchdog:
        for _ in range(10):
            time.sleep(0.1)
            watchdog.beat()
        print("beaten", flush=True)
        for _ in range(times):
            stand_still(still)
            watchdog.alive()
    print("whole", flush=True)
    return 0


def start(log, *, minutes, still, times=1):
    process = processes.start("test_watchdog:watched", [str(word) for word in (minutes, log, still, times)])
    process.wait_for("beaten")
    return process


def test_a_process_in_which_nothing_moves_leaves_with_75_and_all_its_stacks(tmp_path):
    (tmp_path / "log.txt").write_text("a line of the run\n")
    process = start(tmp_path / "log.txt", minutes=1 / 60, still=100)
    began, ended = time.monotonic(), process.wait(60)
    assert ended.returncode == 75 and "whole" not in ended.stdout and time.monotonic() - began < 30
    log = (tmp_path / "log.txt").read_text()
    assert log.startswith("a line of the run\nwatchdog: nothing moved for 1 s")
    for text in (ended.stderr, log):
        assert "in stand_still" in text and "Thread" in text


@pytest.mark.parametrize("what", [os.mkfifo, os.mkdir])
def test_a_log_that_cannot_be_written_does_not_keep_the_process(tmp_path, what):
    what(tmp_path / "log")  # a pipe that nobody reads hangs as a file system does
    done = start(tmp_path / "log", minutes=1 / 60, still=100).wait(60)
    assert done.returncode == 75 and "in stand_still" in done.stderr


def test_a_pause_within_the_time_allowed_is_none_of_its_business(tmp_path):
    process = start(tmp_path / "log.txt", minutes=2 / 60, still=1)
    ended = process.wait(60)
    assert ended.stdout == "beaten\nwhole\n" and ended.returncode == 0


def test_a_long_push_that_moves_keeps_the_process(tmp_path):
    process = start(tmp_path / "log.txt", minutes=2 / 60, still=1, times=5)
    ended = process.wait(60)
    assert ended.stdout == "beaten\nwhole\n" and ended.returncode == 0


def test_a_process_that_was_suspended_goes_on(tmp_path):
    process = start(tmp_path / "log.txt", minutes=2 / 60, still=1)
    process.send(signal.SIGSTOP)
    time.sleep(3)  # longer than the time allowed
    process.send(signal.SIGCONT)
    ended = process.wait(60)
    assert ended.stdout == "beaten\nwhole\n" and ended.returncode == 0


def test_the_time_allowed_follows_the_median_of_the_beats(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watchdog = Watchdog(multiple=100, minutes=1, report_to=None)
    assert watchdog.seconds() == 1800, "the first step compiles"
    for seconds in (90, 2, 2, 2, 300, 2):
        now[0] += seconds
        watchdog.beat()
        for _ in range(seconds):
            watchdog.alive()  # what moves within a step is no step
    assert watchdog.seconds() == pytest.approx(200)
    assert Watchdog(multiple=1, minutes=60, report_to=None).seconds() == 3600
