"""A split never divides a group, repeats with its seed, and says what to type where it cannot be made."""

import random
from collections import Counter
from pathlib import Path

import pytest

from flexseg.errors import UserError
from flexseg.files.cases import Case
from flexseg.files.split import Split, leaked


def make(sizes: dict[str, int], split: str | None = None) -> list[Case]:
    return [
        Case(f"{group}-{number}", Path(f"set/{split}/images/{group}-{number}.png"), None, group, split)
        for group, size in sizes.items()
        for number in range(size)
    ]


def table(assigned) -> dict[str, str]:
    return {case.case_id: name for name, cases in assigned.items() for case in cases}


def counts(assigned) -> dict[str, int]:
    return {name: len(cases) for name, cases in assigned.items()}


def refusal(split: Split, cases) -> str:
    with pytest.raises(UserError) as caught:
        split.assign(cases)
    assert "\n" not in str(caught.value)
    return str(caught.value)


PATIENTS = {f"{number:02}": size for number, size in enumerate([7, 3, 5, 8, 4, 3, 3, 4, 6, 4, 3], start=1)}  # 50 cases of 11 groups


@pytest.mark.parametrize("seed", range(20))
def test_no_group_is_divided_and_no_case_is_lost(seed):
    cases = make(PATIENTS)
    assigned = Split(seed=seed).assign(cases)
    assert not leaked(assigned) and sorted(table(assigned)) == sorted(case.case_id for case in cases)
    assert all(case.split == name for name, part in assigned.items() for case in part)
    assert abs(counts(assigned)["train"] - 35) <= 4 and min(counts(assigned).values()) >= 3


def test_without_groups_the_cut_is_the_largest_remainder():
    assert counts(Split().assign(make({str(number): 1 for number in range(16)}))) == {"train": 11, "valid": 3, "test": 2}
    thousand = make({str(number): 1 for number in range(1000)})
    assert counts(Split(proportions=(0.5, 0.3, 0.2)).assign(thousand)) == {"train": 500, "valid": 300, "test": 200}


def test_the_cut_depends_on_the_seed_and_not_on_the_order():
    cases = make(PATIENTS)
    shuffled = random.Random(3).sample(cases, len(cases))
    assert Split(seed=5).assign(cases) == Split(seed=5).assign(shuffled)
    assert len({str(table(Split(seed=seed).assign(cases))) for seed in range(20)}) > 15


def test_the_cut_is_the_same_on_every_machine():
    """Golden: recorded from this code; SHA-256 orders the groups."""
    assigned = Split(seed=2).assign(make({group: 1 for group in "abcdefgh"}))
    assert {name: "".join(case.group for case in cases) for name, cases in assigned.items()} == {"train": "acdfgh", "valid": "e", "test": "b"}


def test_every_wanted_split_gets_a_group_even_when_one_group_is_nearly_all():
    for seed in range(20):
        assigned = Split(seed=seed).assign(make({"giant": 90, **{str(number): 1 for number in range(10)}}))
        assert counts(assigned)["train"] >= 90 and set(assigned) == {"train", "valid", "test"}
    few = Split(proportions=(0.9, 0.05, 0.05)).assign(make({"a": 2, "b": 2, "c": 2}))
    assert counts(few) == {"train": 2, "valid": 2, "test": 2}


def test_a_share_of_zero_makes_no_split():
    assert counts(Split(proportions=(0.8, 0.2, 0)).assign(make({str(number): 1 for number in range(10)}))) == {"train": 8, "valid": 2}
    assert set(Split(proportions=(1, 0, 0)).assign(make({"a": 2}))) == {"train"}


@pytest.mark.parametrize("number", [1, 2])
def test_more_splits_than_groups_is_refused_and_the_printed_cures_build(number):
    cases = make({"1": 9, "2": 9} if number == 2 else {"1": 4})
    message = refusal(Split(), cases)
    assert f"found {number} (" in message
    cure = "split.proportions=(0.5,0.5,0)" if number == 2 else "split.proportions=(1,0,0)"
    assert cure in message and len(Split(proportions=eval_tuple(cure)).assign(cases)) == number
    if number == 2:
        assert "split.train_groups=('1',)" in message and "split.valid_groups=('2',)" in message


def eval_tuple(binding: str) -> tuple[float, ...]:
    return tuple(float(part) for part in binding.split("=(")[1].rstrip(")").split(","))


def test_explicit_groups_are_taken_as_they_are_numbers_as_digits():
    assigned = Split(train_groups=(1, "3"), valid_groups=("2",)).assign(make({"1": 2, "2": 3, "3": 4}))
    assert {name: {case.group for case in cases} for name, cases in assigned.items()} == {"train": {"1", "3"}, "valid": {"2"}}


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"train_groups": ("tile1",), "valid_groups": ("tile3",)}, ("valid_groups", "'tile3'", "tile1, tile2", "Did you mean")),
        ({"train_groups": ("tile1",)}, ("tile2 in none",)),
        ({"train_groups": ("tile1", "tile2"), "test_groups": ("tile2",)}, ("'tile2'", "train_groups", "test_groups")),
        ({"valid_groups": ("tile1", "tile2")}, ("train_groups",)),
    ],
)
def test_lists_that_do_not_give_every_group_one_split_are_refused(lists, words):
    message = refusal(Split(**lists), make({"tile1": 2, "tile2": 2}))
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    "settings",
    [
        {"proportions": (0.7, 0.2)},
        {"proportions": (0.7, 0.2, 0.2)},
        {"proportions": (0, 0.5, 0.5)},
        {"proportions": (1.2, -0.2, 0)},
        {"proportions": 0.7},
        {"proportions": (float("nan"), 0.5, 0.5)},
        {"train_groups": "1"},
        {"test_groups": 1},
    ],
)
def test_settings_that_make_no_sense_are_refused_at_construction(settings):
    with pytest.raises(UserError, match=f"split.{next(iter(settings))}"):
        Split(**settings)


def folder_with_a_leak() -> list[Case]:
    return [
        *make({"p1": 2, "p2": 2}, "train"),
        *make({"p3": 2}, "valid"),
        Case("copy", Path("set/test/images/copy.png"), None, "p1", "test"),
        *make({"p4": 1}, "test"),
    ]


def test_the_folders_own_splits_are_taken_as_they_stand():
    cases = [*make({"a": 1}, "train"), *make({"b": 5}, "valid")]
    assert counts(Split().assign(cases)) == {"train": 1, "valid": 5}


def test_a_group_in_two_of_the_folders_splits_is_refused_with_files_and_both_cures():
    message = refusal(Split(), folder_with_a_leak())
    assert all(
        word in message
        for word in (
            "1 group ",
            "group p1",
            "train/images/p1-0.png",
            "test/images/copy.png",
            '--gin_param="split.resplit=True"',
            '--gin_param="split.allow_leak=True"',
            "LEAKED",
        )
    )


def test_resplit_pools_the_folders_splits_and_leaks_nothing():
    cases = folder_with_a_leak()
    assigned = Split(resplit=True).assign(cases)
    assert not leaked(assigned) and len(table(assigned)) == len(cases)
    assert Counter(table(assigned)[name] for name in ("p1-0", "p1-1", "copy")).most_common()[0][1] == 3
    assert set(Split(resplit=True, train_groups=("p1", "p2"), test_groups=("p3", "p4")).assign(cases)) == {"train", "test"}


def test_an_allowed_leak_is_built_as_it_stands_and_is_known_to_be_one():
    assigned = Split(allow_leak=True).assign(folder_with_a_leak())
    assert leaked(assigned) and counts(assigned) == {"train": 4, "valid": 2, "test": 2}
    assert not leaked(Split(allow_leak=True).assign(make(PATIENTS)))


def test_lists_beside_the_folders_own_splits_are_refused():
    assert "split.resplit=True" in refusal(Split(train_groups=("a",)), make({"a": 1}, "train"))


def test_cases_without_group_stand_alone():
    cases = [Case(str(number), Path(f"{number}.png"), None) for number in range(16)]
    assert counts(Split().assign(cases)) == {"train": 11, "valid": 3, "test": 2}


# Folds


@pytest.mark.parametrize("folds", [3, 5, 11])
def test_every_group_is_tested_once_and_validates_once(folds):
    cases = make(PATIENTS)
    parts = [Split(folds=folds, fold=fold).assign(cases) for fold in range(1, folds + 1)]
    for name in ("test", "valid"):
        assert sorted(case.case_id for part in parts for case in part[name]) == sorted(case.case_id for case in cases)
    for fold, part in enumerate(parts):
        assert not leaked(part) and sum(counts(part).values()) == len(cases)
        assert {case.group for case in part["valid"]} == {case.group for case in parts[(fold + 1) % folds]["test"]}


def test_folds_are_about_as_large_and_depend_on_the_seed_alone():
    cases = make(PATIENTS)
    sizes = [counts(Split(folds=5, fold=fold).assign(cases))["test"] for fold in range(1, 6)]
    assert max(sizes) - min(sizes) <= 3
    shuffled = random.Random(3).sample(cases, len(cases))
    assert Split(folds=4, fold=2, seed=1).assign(cases) == Split(folds=4, fold=2, seed=1).assign(shuffled)
    even = make({str(number): 1 for number in range(40)})
    assert len({str(table(Split(folds=4, seed=seed).assign(even))) for seed in range(10)}) == 10


def test_as_many_folds_as_groups_leave_one_out_in_their_order():
    cases = make({str(number): 2 for number in range(1, 12)})
    for fold in range(1, 12):
        part = Split(folds=11, fold=fold).assign(cases)
        assert {case.group for case in part["test"]} == {str(fold)} and {case.group for case in part["valid"]} == {str(fold % 11 + 1)}


def test_folds_that_cannot_be_made_say_so():
    assert 'split.folds=11" leaves one out' in refusal(Split(folds=12), make(PATIENTS))
    assert "split.resplit=True" in refusal(Split(folds=5), make({"a": 1}, "train") + make({"b": 1}, "valid"))
    assert "split.proportions" in refusal(Split(folds=5, proportions=(0.8, 0.2, 0)), make(PATIENTS))
    assert "lists of groups" in refusal(Split(folds=3, train_groups=("01",)), make(PATIENTS))
    for settings in ({"folds": 2}, {"folds": 5, "fold": 6}, {"folds": 5, "fold": 0}, {"fold": 2}):
        with pytest.raises(UserError, match="split.fold"):
            Split(**settings)
