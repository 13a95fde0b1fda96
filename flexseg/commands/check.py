"""Check a folder of images and masks before it is built, or a built dataset, and report errors, warnings and cures.

    flexseg check --source=my_folder                          # pairs, sizes, labels, duplicates, leaks: a table, check.html, check.json, images
    flexseg check --source=my_folder --manifest=manifest.json # and the changes since a dataset was built
    flexseg check --dataset=my_set --data_dir=data            # decodes every record of a built dataset

No file of the source is changed. Exit code: 0 for notes or nothing, 3 for warnings, 1 for errors.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flexseg.commands.config_flags import Positive, flags_of, values
from flexseg.commands.quiet import hide_gpus, load_tensorflow

if TYPE_CHECKING:
    import numpy as np

    from flexseg.checks.findings import Finding
    from flexseg.files.cases import Patterns

WARNED = 3
_MODULES = ("flexseg.files.label_map", "flexseg.files.split", "flexseg.files.volumes")


def run(
    *,
    source: str | None = None,
    dataset: str | None = None,
    data_dir: str = "data",
    manifest: str | None = None,
    output: str | None = None,
    image_pattern: str | None = None,
    mask_pattern: str | None = None,
    group_pattern: str | None = None,
    group_column: str | None = None,
    max_image_pixels: Positive = 150_000_000,
    gin_file: Sequence[str] = (),
    gin_param: Sequence[str] = (),
) -> list:
    """Prints and writes the findings and returns them.

    Args:
      source: The folder of images and masks.
      dataset: Name of a built dataset to check instead.
      manifest: manifest.json of a dataset that was built from the folder.
      output: Folder for check.html, check.json and images; default check_FOLDER in the current directory.
      gin_file: A gin file with label_map.* and split.*. Repeatable.
      gin_param: A binding such as "label_map.off_map='nearest'". Repeatable.
    """
    from flexseg.errors import UserError
    from flexseg.files.cases import named

    if source is None and dataset is not None:
        return _check_dataset(dataset, data_dir)
    if source is None or dataset is not None:
        cure = "flexseg check --source=FOLDER, or --dataset=NAME --data_dir=DIR"
        raise UserError("--source, --dataset", expected="one of them", found="none" if source is None else "both", cure=cure)
    given = named(image_pattern=image_pattern, mask_pattern=mask_pattern, group_pattern=group_pattern, group_column=group_column)
    folder = Path(output or f"check_{Path(source).resolve().name}")
    return _check_source(source, given, manifest, folder, max_image_pixels, gin_file, gin_param)


FLAGS = flags_of(run)


def _check_source(
    source: str, patterns: "Patterns", manifest: str | None, folder: Path, max_pixels: int, gin_file: Sequence[str], gin_param: Sequence[str]
) -> list:
    from collections import Counter

    from flexseg.checks.check_report import table_of, write_report
    from flexseg.checks.findings import SEVERITIES, Finding, changes, find
    from flexseg.checks.survey import survey
    from flexseg.config.configure import configure
    from flexseg.console import progress
    from flexseg.errors import UserError, printable
    from flexseg.files.cases import Discovery, discover
    from flexseg.files.label_map import LabelMap, infer_label_map
    from flexseg.files.manifest import Manifest
    from flexseg.files.split import Split
    from flexseg.files.volumes import pictures_of

    configuration = configure(gin_file, gin_param, modules=_MODULES, user_modules=())
    before = Manifest.load(manifest) if manifest else None
    bound = {"label_map.rgb_map", "label_map.values"} & configuration.bindings.keys()
    label_map = LabelMap() if bound else None
    if not Path(source).is_dir():
        raise UserError(f"--source={source}", expected="a folder of images and masks", found="nothing of that name")
    mispaired: list[Finding] = []
    kept: list[object] = []
    try:
        with progress("slicing", unit="volume") as bar:
            pictures, patterns = pictures_of(
                Path(source), patterns, keep=kept, warn=lambda sentence: print(printable(sentence)), progress=bar.at, max_pixels=max_pixels
            )
        found = discover(pictures, **patterns)
    except UserError as error:
        found, mispaired = Discovery([], []), [Finding("error", "pairing", str(error))]
    cases = found.cases
    if cases and any(key.startswith("split.") for key in configuration.bindings):
        assigned = Split().assign(cases)
        cases = sorted((case for part in assigned.values() for case in part), key=lambda case: case.case_id)
    entries = []
    with progress("checking", total=len(cases), unit="case") as bar:
        for entry in survey(cases, label_map=label_map, max_pixels=max_pixels):
            entries.append(entry)
            bar.update(count=1)
    problem = ""
    if label_map is None:
        colors: Counter = Counter()
        for entry in entries:
            colors.update(entry.colors)
        try:
            label_map = infer_label_map(colors) if colors else None
        except UserError as error:
            richest = max(entries, key=lambda entry: len(entry.colors) + entry.more_colors)
            number = len(richest.colors) + richest.more_colors
            counted = f", of which the {len(richest.colors)} most frequent are counted here" if richest.more_colors else ""
            problem = f"{error} Most of them, {number}{counted}, are in {richest.case.mask_path.name}."
    findings = mispaired + find(entries, label_map, label_problem=problem, warnings=found.warnings)
    if before:
        findings = sorted([*findings, *changes(entries, before)], key=lambda finding: SEVERITIES.index(finding.severity))
    table = table_of(entries, label_map)
    _print_table(table, label_map.class_names if label_map else ())
    _print_findings(findings)
    page = write_report(folder, findings, table, entries, label_map, source=str(source), max_pixels=max_pixels)
    print(f"\nwritten: {page}")
    return findings


def _check_dataset(dataset: str, data_dir: str) -> list:
    load_tensorflow()
    from flexseg.checks.findings import Finding
    from flexseg.console import progress
    from flexseg.data.dataset import open_dataset
    from flexseg.errors import UserError

    built = open_dataset(dataset, data_dir)

    def read(split: str, number: int) -> "tuple[np.ndarray, np.ndarray]":
        with built.naming_damage(split, lambda: [number]):
            return built.records(split).example(number)

    findings = []
    tables = built.manifest.splits
    with progress("reading", total=sum(map(len, tables.values())), unit="record") as bar:
        for split, table in tables.items():
            for number, case in enumerate(table.case_id):
                bar.update(count=1)
                try:
                    image, mask = read(split, number)
                    height, width = table.height[number], table.width[number]
                    if not image.shape[:2] == mask.shape == (height, width):
                        expected = f"{height} x {width} pixels, as the manifest says"
                        raise UserError(f"{split}, case {case}", expected=expected, found=f"{image.shape[0]} x {image.shape[1]}")
                except UserError as error:
                    findings.append(Finding("error", "damaged_record", str(error), (case,)))
    print(f"{dataset}: {sum(map(len, tables.values()))} records of {', '.join(tables)}, {built.directory}")
    _print_findings(findings)
    return findings


def _print_table(table: dict, class_names: Sequence[str]) -> None:
    print(f"{'split':10} {'images':>7} {'groups':>7}  " + "  ".join(f"{name:>10}" for name in class_names))
    for split, row in table.items():
        shares = "  ".join(f"{row['shares'][name]:>{max(10, len(name))}.2%}" for name in class_names)
        print(f"{split:10} {row['cases']:7} {row['groups']:7}  {shares}")


def _print_findings(findings: "Sequence[Finding]") -> None:
    from flexseg.errors import printable

    print()
    for finding in findings:
        print(printable(f"{finding.severity}: {finding.text}"))
    from flexseg.checks.findings import SEVERITIES, count_of

    counts = [count_of(sum(finding.severity == severity for finding in findings), severity) for severity in SEVERITIES]
    print(", ".join(counts) if findings else "nothing was found")


def main(args: Sequence[str]) -> int:
    """The command."""
    hide_gpus()
    severities = {finding.severity for finding in run(**values(FLAGS))}
    return 1 if "error" in severities else WARNED if "warning" in severities else 0
