"""The watchdog, in processes of its own: it ends them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from flexseg.training.watchdog import Watchdog

SCRIPT = """
import sys, time
from pathlib import Path
from flexseg.training.watchdog import Watchdog

def stand_still(seconds):
    time.sleep(seconds)

with Watchdog(multiple=4, minutes=float(sys.argv[1]), report_to=Path(sys.argv[2])) as watchdog:
    for _ in range(10):
        time.sleep(0.1)
        watchdog.beat()
    print("beaten", flush=True)
    for _ in range(int(sys.argv[4])):
        stand_still(float(sys.argv[3]))
        watchdog.alive()
print("whole")
"""


def start(log, *, minutes, still, times=1):
    log.write_text("a line of the run\n")
    command = [sys.executable, "-c", SCRIPT, str(minutes), str(log), str(still), str(times)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "beaten\n"
    return process


def test_a_process_in_which_nothing_moves_leaves_with_75_and_all_its_stacks(tmp_path):
    began, process = time.monotonic(), start(tmp_path / "log.txt", minutes=1 / 60, still=100)
    said, wrong = process.communicate(timeout=60)
    assert process.returncode == 75 and "whole" not in said and time.monotonic() - began < 30
    log = (tmp_path / "log.txt").read_text()
    assert log.startswith("a line of the run\nwatchdog: nothing moved for 1 s")
    for text in (wrong, log):
        assert "in stand_still" in text and "Thread" in text


@pytest.mark.parametrize("what", [os.mkfifo, os.mkdir])
def test_a_log_that_cannot_be_written_does_not_keep_the_process(tmp_path, what):
    what(tmp_path / "log")  # a pipe that nobody reads hangs as a file system does
    command = [sys.executable, "-c", SCRIPT, str(1 / 60), str(tmp_path / "log"), "100", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 75 and "in stand_still" in done.stderr


def test_a_pause_within_the_time_allowed_is_none_of_its_business(tmp_path):
    process = start(tmp_path / "log.txt", minutes=2 / 60, still=1)
    assert process.communicate(timeout=60)[0] == "whole\n" and process.returncode == 0


def test_a_long_push_that_moves_keeps_the_process(tmp_path):
    process = start(tmp_path / "log.txt", minutes=2 / 60, still=1, times=5)
    assert process.communicate(timeout=60)[0] == "whole\n" and process.returncode == 0


def test_a_process_that_was_suspended_goes_on(tmp_path):
    process = start(tmp_path / "log.txt", minutes=2 / 60, still=1)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(5)
    os.kill(process.pid, signal.SIGCONT)
    assert process.communicate(timeout=60)[0] == "whole\n" and process.returncode == 0


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
