"""Evaluate a trained run on a split of its dataset, each case at its own size.

    flexseg evaluate --workdir=runs/my_run --split=test

Writes evaluation/<split>/report.json, per_case.csv and evaluation.csv into the run directory and prints the table.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from flexseg.commands.config_flags import Natural, Positive, flags_of, values


def run(
    *,
    workdir: str,
    split: str = "test",
    output: str | None = None,
    data_dir: str | None = None,
    checkpoint: Literal["best", "last"] = "best",
    replicas: Positive = 1,
    logical_cpus: Natural = 0,
    gin_param: Sequence[str] = (),
    user_module: Sequence[str] = (),
) -> dict:
    """Evaluates a split and returns the report.

    Args:
      split: The split to evaluate.
      output: Folder for the report; default evaluation/<split> in the run directory.
      data_dir: Directory of built datasets; default that of the training.
      gin_param: A binding that overrides those of the run, e.g. eval.batch_size=8. Repeatable.
    """
    from flexseg.commands.quiet import load_tensorflow
    from flexseg.errors import UserError
    from flexseg.runs.directory import recorded_onednn

    if not workdir:
        raise UserError("--workdir", expected="a run directory", found="none", cure="flexseg evaluate --workdir=RUN --split=test")
    load_tensorflow(onednn=recorded_onednn(workdir))
    from flexseg.training.opened_run import dataset_of, open_run

    with open_run(
        workdir, gin_param=gin_param, checkpoint=checkpoint, replicas=replicas, logical_cpus=logical_cpus, user_module=user_module
    ) as opened:
        from flexseg.evaluation.evaluate import evaluate_split
        from flexseg.files.atomic import make_folder
        from flexseg.files.names import below

        report = evaluate_split(
            opened.assembly.predictor,
            dataset_of(opened, data_dir),
            split,
            settings=opened.experiment.evaluation,
            step_metrics=opened.assembly.step_metrics,
            loss_name=opened.experiment.objective.loss,
        )
        provenance = {
            "checkpoint": checkpoint,
            **{key: opened.weights[key] for key in ("epoch", "step", "monitor", "value") if key in opened.weights},
            "precision": opened.assembly.precision,
            "gin_param": list(gin_param),
            "warnings": opened.warnings,
        }
        folder = Path(output) if output else below(opened.run.evaluation, split)
        result = report.write(make_folder(folder, flag="--output"), provenance=provenance)
        chosen = f"epoch {opened.weights.get('epoch', opened.weights.get('epochs_done'))}"
        if "monitor" in opened.weights and "value" in opened.weights:
            chosen += f", {opened.weights['monitor']} {opened.weights['value']:.4f}"
        print(f"{split} split, {checkpoint} weights ({chosen})\n")
        print(report.table())
        print(f"\nwritten: {folder if output else opened.run.name_of(folder)}")
    return result


FLAGS = flags_of(run)


def main(args: Sequence[str]) -> int:
    """The command."""
    run(**values(FLAGS))
    return 0
