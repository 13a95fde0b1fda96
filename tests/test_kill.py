"""A run that is killed with SIGKILL again and again, each time started with the same command, ends to the bit as one that was left alone.

Processes of their own (benchmarks/faults/faulty_run.py), because only another process proves that nothing was kept in the old one; those of the first
case are begun anew, without a fork server.
"""

import re
import signal

import pytest
import toy_runs

# All that carries state from step to step: dropout, augmentation, moments, a plateau that fires, the best weights; checkpoints inside epochs.
PARAMS = (
    "flex_unet.dropout_rate=0.05", "flex_unet.base_filters=4", "augment.enabled=True", "input.fit='random_crop'",
    "input.eval_fit='resize'", "train.epochs=4", "train.steps_per_epoch=4", "train.checkpoint_steps=3", "plateau.learning_rate_reducer=True",
    "plateau.reducer_patience=1", "plateau.min_delta=10.0", "train.metrics=('dice_coef',)",
)  # fmt: skip
# Steps 6 and 3 are in checkpoints by then; savez is called three times a checkpoint (model, optimizer, loss_scale), once for the best weights.
KILLS = (("step", 6), ("validation", 3), ("checkpoint", 5))
# Every pair of settings is there, but XLA with 16 bits, and float32 without XLA or with determinism, which tests/test_resume.py has in one process.
CASES = [
    ("float32", 1, "none", "on", False), ("mixed_bfloat16", 1, "batch", "off", True), ("mixed_bfloat16", 2, "none", "off", True),
    ("float32", 2, "batch", "on", False),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "count", "normalization", "xla", "deterministic"), CASES)
def test_a_run_killed_three_times_ends_to_the_bit_as_one_that_was_not(toy, tmp_path, precision, count, normalization, xla, deterministic):
    params = (
        *PARAMS, f"train.precision='{precision}'", f"flex_unet.normalization='{normalization}'", f"train.xla='{xla}'",
        f"train.deterministic={deterministic}", "flex_unet.num_layers=2",
    )  # fmt: skip

    def start(workdir, fault="none", call=0):
        forked = (precision, count) != ("float32", 1)
        return toy_runs.process(toy, workdir, *params, fault=fault, call=call, forked=forked, logical_cpus=count if count > 1 else 0)

    whole = start(tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    assert "learning rate reduced" in whole.stdout, "the plateau must have fired, or its state proves nothing"
    steps = []
    for fault, call in KILLS:
        killed = start(tmp_path / "run", fault, call)
        assert killed.returncode == -signal.SIGKILL, f"{fault}: {killed.stdout[-2000:]}\n{killed.stderr[-2000:]}"
        steps.append(resumed_step(killed.stdout))
    last = start(tmp_path / "run")
    assert last.returncode == 0, last.stderr
    steps.append(resumed_step(last.stdout))
    assert steps[0] is None and steps == sorted(steps, key=lambda step: -1 if step is None else step), steps
    assert steps[-1] >= 6, "the last start must have gone on from the middle"
    assert "is taken over: that process is gone" in last.stdout
    assert toy_runs.outcome(tmp_path / "run") == toy_runs.outcome(tmp_path / "whole")


def resumed_step(said: str) -> int | None:
    found = re.search(r"resumed after epoch \d+, step (\d+)", said)
    return int(found[1]) if found else None
