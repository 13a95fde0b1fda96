"""Split: assigns cases to train, valid and test, with every group in one split.

    assigned = Split(proportions=(0.8, 0.2, 0)).assign(cases)     # {"train": [...], "valid": [...]}
    Split(train_groups=("1", "2"), valid_groups=("3",)).assign(cases)
    Split(folds=5, fold=2).assign(cases)                           # the second fold is test, the third is valid, three train
    Split(resplit=True).assign(cases)                              # pools the folder's splits and splits again by group

A folder with `train/`, `valid/`, `test/` keeps its splits, unless `resplit`. The result depends on seed, group names and group sizes, not on the
order of the cases or the machine. Classes are not balanced.
"""

import dataclasses
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import gin

from flexseg.errors import UserError, gin_param, suggest
from flexseg.files.cases import SPLITS, Case
from flexseg.files.groups import some


@gin.configurable("split")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """The settings of a split.

    Attributes:
      proportions: shares of the cases in train, valid, test; they sum to 1, 0 means no such split.
      train_groups, valid_groups, test_groups: groups of each split, each group once; numbers are read as text. Exclusive with proportions and seed.
      folds: number of folds for cross-validation, with about equal numbers of cases; as many folds as groups is leave-one-group-out, in the order of
        the groups. 0: no folds. Exclusive with proportions and lists.
      fold: the fold that is test, from 1; the next one (after the last, the first) is valid, the others are train.
      seed: selects among the splits that fit the proportions or the folds; any int.
      resplit: pool the folder's splits and split again by group.
      allow_leak: accept a group in two of the folder's splits; every report on the dataset then says LEAKED.
    """

    proportions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    train_groups: tuple[str | int, ...] | None = None
    valid_groups: tuple[str | int, ...] | None = None
    test_groups: tuple[str | int, ...] | None = None
    folds: int = 0
    fold: int = 1
    seed: int = 0
    resplit: bool = False
    allow_leak: bool = False

    def __post_init__(self) -> None:
        shares = self.proportions
        numbers = isinstance(shares, (tuple, list)) and all(isinstance(share, (int, float)) for share in shares)
        if not (numbers and len(shares) == 3 and min(shares) >= 0 < shares[0] and abs(sum(shares) - 1) < 1e-3):
            raise UserError(
                "split.proportions",
                expected="three shares (train, valid, test) that sum to 1, the first above 0",
                found=repr(shares),
                cure='for example --gin_param="split.proportions=(0.8,0.2,0)"',
            )
        if self.folds and not (self.folds >= 3 and 1 <= self.fold <= self.folds):
            raise UserError("split.folds, split.fold", expected="three folds or more, and one of them, from 1", found=f"{self.folds}, {self.fold}")
        if self.fold != 1 and not self.folds:
            raise UserError("split.fold", expected="split.folds beside it", found="none", cure='for example --gin_param="split.folds=5"')
        for name in SPLITS:
            groups = getattr(self, f"{name}_groups")
            if groups is not None and (isinstance(groups, str) or not isinstance(groups, (tuple, list))):
                raise UserError(
                    f"split.{name}_groups",
                    expected="a tuple of groups",
                    found=repr(groups),
                    cure=f'--gin_param="split.{name}_groups=({str(groups)!r},)"',
                )

    def assign(self, cases: Iterable[Case]) -> dict[str, list[Case]]:
        """{split: its cases, sorted by case_id, with `split` set}, in the order train, valid, test, without empty splits.

        Raises:
          UserError: a group in two of the folder's splits, unknown or missing groups in the lists, fewer groups than splits.
        """
        cases = sorted(cases, key=lambda case: case.case_id)
        own = any(case.split is not None for case in cases) and not self.resplit
        lists = {name: groups for name in SPLITS if (groups := getattr(self, f"{name}_groups")) is not None}
        if (own or lists) and (tuple(self.proportions) != Split.proportions or self.seed != Split.seed):
            name = "seed" if tuple(self.proportions) == Split.proportions else "proportions"
            beside = "a folder with its own splits" if own else "lists of groups"
            raise UserError(
                f"split.{name}",
                expected="one division",
                found=f"shares to cut, and {beside}",
                cure='--gin_param="split.resplit=True" pools the folder\'s splits and cuts them again; or leave it out.'
                if own
                else "leave it out, or the lists.",
            )
        if self.folds and (own or lists or tuple(shares := self.proportions) != Split.proportions):
            beside = "a folder with its own splits" if own else "lists of groups" if lists else f"split.proportions = {shares}"
            raise UserError(
                "split.folds",
                expected="one division",
                found=f"folds, and {beside}",
                cure='--gin_param="split.resplit=True" pools the folder\'s splits; or leave it out.' if own else "leave one of them out.",
            )
        if own and lists:
            raise UserError(
                f"split.{next(iter(lists))}_groups",
                expected="one division",
                found="lists of groups, and a folder with its own splits",
                cure='--gin_param="split.resplit=True" pools the folder\'s splits; or leave the lists out.',
            )
        if own:
            chosen = {case.case_id: case.split for case in cases}
        else:
            sizes = Counter(map(_group, cases))
            of_group = self._listed(lists, sizes) if lists else self._folded(sizes) if self.folds else self._cut(sizes)
            chosen = {case.case_id: of_group[_group(case)] for case in cases}
        parts = {name: [dataclasses.replace(case, split=name) for case in cases if chosen[case.case_id] == name] for name in SPLITS}
        assigned = {name: part for name, part in parts.items() if part}
        if not self.allow_leak:
            _refuse_leak(assigned)
        return assigned

    def _listed(self, lists: Mapping[str, Iterable[str | int]], sizes: Counter) -> dict[str, str]:
        """{group: split} by the lists."""
        of_group: dict[str, str] = {}
        for name, groups in lists.items():
            for group in map(str, groups):
                if group not in sizes:
                    raise UserError(
                        f"split.{name}_groups",
                        expected=f"groups of this data set ({some(sorted(sizes), 12)})",
                        found=repr(group),
                        cure=f"correct the name.{suggest(group, sizes)}",
                    )
                if of_group.setdefault(group, name) != name:
                    raise UserError(
                        f"split.{name}_groups",
                        expected="every group in one list",
                        cure="take it out of one of them.",
                        found=f"{group!r} in split.{of_group[group]}_groups too",
                    )
        forgotten = sorted(sizes.keys() - of_group.keys())
        if forgotten:
            raise UserError(
                f"split.{'_groups, split.'.join(lists)}_groups",
                expected="every group in a list",
                found=f"{some(forgotten, 12)} in none",
                cure="add them to a list, or take their files out of the folder.",
            )
        if "train" not in of_group.values():
            raise UserError("split.train_groups", expected="at least one group to train on", found="none", cure="name one.")
        return of_group

    def _cut(self, sizes: Counter) -> dict[str, str]:
        """{group: split} by proportions: each group goes to the split that lacks most cases, which rounds by largest remainder.

        Groups come in the seed's order, but first those of more than half the largest split, which would not fit later.
        """
        total = sum(sizes.values())
        missing = {name: share * total for name, share in zip(SPLITS, self.proportions, strict=True) if share > 0}
        if len(sizes) < len(missing):
            raise UserError(
                "split.proportions",
                expected=f"at least {len(missing)} groups for {len(missing)} splits",
                cure=_example(sizes),
                found=f"{len(sizes)} ({some(sorted(sizes))}), and a group is never divided",
            )
        huge = max(missing.values()) / 2
        order = sorted(sizes, key=lambda group: (-sizes[group] if sizes[group] > huge else 0, self._rank(group), group))
        of_group, empty = {}, dict.fromkeys(missing)
        for index, group in enumerate(order):
            last_chance = len(order) - index <= len(empty)
            name = max(empty if last_chance else missing, key=missing.__getitem__)  # ties: train before valid before test
            missing[name] -= sizes[group]
            empty.pop(name, None)
            of_group[group] = name
        return of_group

    def _folded(self, sizes: Counter) -> dict[str, str]:
        """{group: split} by folds: the largest group first, each into the fold with the fewest cases."""
        if len(sizes) < self.folds:
            raise UserError(
                "split.folds",
                expected=f"at least {self.folds} groups for {self.folds} folds",
                found=f"{len(sizes)} ({some(sorted(sizes))})",
                cure=f'--gin_param="split.folds={len(sizes)}" leaves one out at a time.',
            )
        if len(sizes) == self.folds:
            fold_of = {group: number for number, group in enumerate(sorted(sizes, key=_natural))}
        else:
            filled, fold_of = [0] * self.folds, {}
            for group in sorted(sizes, key=lambda group: (-sizes[group], self._rank(group), group)):
                fold_of[group] = filled.index(min(filled))
                filled[fold_of[group]] += sizes[group]
        tested = self.fold - 1
        return {group: {tested: "test", (tested + 1) % self.folds: "valid"}.get(number, "train") for group, number in fold_of.items()}

    def _rank(self, group: str) -> bytes:
        return hashlib.sha256(f"{self.seed}/{group}".encode()).digest()


def leaked(assigned: Mapping[str, Iterable[Case]]) -> bool:
    """Whether a group is in two splits, so that scores are not those of unseen cases."""
    return bool(_straddling(assigned))


def _natural(group: str) -> tuple:
    """Sort key in which numbers count as numbers: 2 before 10."""
    return tuple((not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", group) if part)


def _group(case: Case) -> str:
    return case.case_id if case.group is None else str(case.group)


def _straddling(assigned: Mapping[str, Iterable[Case]]) -> dict[str, list[Case]]:
    """{group in two or more splits: one case of each split}."""
    first: dict[str, dict[str, Case]] = defaultdict(dict)
    for name, cases in assigned.items():
        for case in cases:
            first[_group(case)].setdefault(name, case)
    return {group: list(by_split.values()) for group, by_split in first.items() if len(by_split) > 1}


def _refuse_leak(assigned: Mapping[str, Iterable[Case]]) -> None:
    leaks = _straddling(assigned)
    if not leaks:
        return
    examples = [f"group {group} ({', '.join(str(Path(*case.image.parts[-3:])) for case in cases)})" for group, cases in sorted(leaks.items())]
    count = "1 group" if len(leaks) == 1 else f"{len(leaks)} groups"
    raise UserError(
        "the folder's splits",
        expected="every group in one split",
        found=f"{count} in two or more (a leak): {some(examples, 3)}",
        cure='--gin_param="split.resplit=True" pools the splits and cuts them again by group; '
        '--gin_param="split.allow_leak=True" builds them as they stand and stamps every report LEAKED.',
    )


def _example(sizes: Counter) -> str:
    """Example bindings for one or two groups."""
    if len(sizes) == 1:
        return '--gin_param="split.proportions=(1,0,0)" trains on all and scores nothing.'
    first, second = sorted(sizes)
    train, valid = (gin_param(f"split.{name}_groups=({group!r},)") for name, group in (("train", first), ("valid", second)))
    return f'{train} {valid}, or --gin_param="split.proportions=(0.5,0.5,0)".'
