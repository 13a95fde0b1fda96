"""Measure every network with its small settings: cost, training speed, and Dice after 300 steps.

    python benchmarks/model_table.py --work=table --tnbc=TNBC_FOLDER                       # all missing rows
    python benchmarks/model_table.py --work=table --tnbc=TNBC_FOLDER --rows=u2net,fpn      # some rows
    python benchmarks/model_table.py --work=table --only=costs                             # timings, on an otherwise idle machine
    python benchmarks/model_table.py --work=table --only=print                             # prints the results so far

256 × 256 pixels, two classes, four images per step. Costs, speed in float32 and bfloat16, and peak memory come from `flexseg models`. Dice is
mean_foreground_dice of `flexseg evaluate --checkpoint=last` after the same 300 steps (default.gin with the network's small file; Adam at 1e-3,
augmentation, precision 'auto', no checkpoint selection): on synthetic_nuclei, test slides, and on TNBC, trained on patients 1 to 4 and tested on
patient 5. Results are kept in WORK/rows and not measured again; an interrupted training run is resumed.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from flexseg.files.atomic import replace_file

STEPS, PRECISIONS, DATASETS = 300, ("float32", "mixed_bfloat16"), ("synthetic_nuclei", "tnbc")
SETTINGS = (
    "input.image_size=(256,256)", "input.fit='resize'", "train.global_batch_size=4", "train.steps_per_epoch=100", f"train.epochs={STEPS // 100}",
    "train.validate_every=1000", "train.monitor='loss'", "plateau.learning_rate_reducer=False",
    "epoch_change_infer.num_infer_images=0",
)  # fmt: skip


def flexseg(*words: str) -> str:
    """Runs a command and returns its output."""
    done = subprocess.run([sys.executable, "-m", "flexseg.commands.dispatcher", *words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"flexseg {' '.join(words)} ended with {done.returncode}")
    return done.stdout


def build(work: Path, name: str, *words: str) -> None:
    """Builds a dataset if it does not exist."""
    if not (work / "data" / name).exists():
        flexseg("build", f"--data_dir={work}/data", *words)


def dice(work: Path, row: str, dataset: str) -> float:
    """Trains for STEPS steps and evaluates the last weights on the test split."""
    run = work / "runs" / f"{row}_{dataset}"
    params = [f"--gin_param={setting}" for setting in SETTINGS]
    files = ["--gin_file=default.gin", f"--gin_file=models/{row}_small.gin"]
    flexseg("train", *files, f"--dataset={dataset}", f"--data_dir={work}/data", f"--workdir={run}", *params)
    flexseg("evaluate", f"--workdir={run}", "--split=test", "--checkpoint=last")
    return json.loads((run / "evaluation" / "test" / "report.json").read_text())["mean_foreground_dice"]


def costs(row: str) -> dict:
    """{precision: row of `flexseg models`}."""
    words = [f"--gin_file=models/{row}_small.gin", "--image_size=256", "--batch_size=4", "--json"]
    return {precision: json.loads(flexseg("models", *words, f"--precision={precision}")) for precision in PRECISIONS}


def table(rows: dict[str, dict]) -> str:
    """The table in Markdown; the last two columns are time and activation memory per GMAC in float32, relative to FlexUNet."""
    lines = [
        "| network | parameters | GMAC | peak memory | images/s float32 | bfloat16 | Dice synthetic | TNBC | time per GMAC | activations per GMAC |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    base = rows["flex_unet"]["costs"]["float32"] if "flex_unet" in rows else None
    for name, row in rows.items():
        full, half = (row["costs"][precision] for precision in PRECISIONS)
        cells = [name, f"{full['parameters']:,}", f"{full['macs'] / 1e9:.2f}", f"{full['memory_bytes'] / 2**30:.2f} GiB"]
        cells += [f"{speed['images_per_second']:.1f}" for speed in (full, half)]
        cells += [f"{row[dataset]:.3f}" if dataset in row else "" for dataset in DATASETS]
        if base:
            work = full["macs"] / base["macs"]
            cells.append(f"{base['images_per_second'] / full['images_per_second'] / work:.2f}")
            cells.append(f"{full['activation_bytes'] / base['activation_bytes'] / work:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parses the flags and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tnbc", type=Path, help="the folder of Slide_01, GT_01 and so on, for Dice")
    parser.add_argument("--rows", default="", help="names of models/*_small.gin, by commas")
    parser.add_argument("--only", choices=["costs", "dice", "print"], help="a part of each row, or none")
    given = parser.parse_args()
    if given.only in (None, "dice") and not given.tnbc:
        parser.error("--tnbc: expected the folder of Slide_01, GT_01 and so on")
    small = sorted(path.name.removesuffix("_small.gin") for path in (Path(str(resources.files("flexseg.configs"))) / "models").glob("*_small.gin"))
    (given.work / "rows").mkdir(parents=True, exist_ok=True)
    paths = {row: given.work / "rows" / f"{row}.json" for row in small}
    rows = {row: json.loads(path.read_text()) if path.exists() else {} for row, path in paths.items()}

    def measure(row: str, part: str, how: Callable[[], object]) -> None:
        if part not in rows[row]:
            rows[row][part] = how()
            replace_file(paths[row], json.dumps(rows[row], indent=1).encode())
            print(row, part, flush=True)

    wanted = given.rows.split(",") if given.rows else small
    if given.only in (None, "costs"):
        for row in wanted:
            measure(row, "costs", lambda row=row: costs(row))
    if given.only in (None, "dice"):
        build(given.work, "synthetic_nuclei", "--dataset=synthetic_nuclei", "--gin_param=synthetic_nuclei.image_size=(256,256)")
        patients = ["--gin_param=split.train_groups=(1,2,3,4)", "--gin_param=split.test_groups=(5,)"]
        build(given.work, "tnbc", "--dataset=tnbc", f"--source={given.tnbc}", *patients)
        for row in wanted:
            for dataset in DATASETS:
                measure(row, dataset, lambda row=row, dataset=dataset: dice(given.work, row, dataset))
    print(table({row: found for row, found in rows.items() if "costs" in found}))


if __name__ == "__main__":
    main()
