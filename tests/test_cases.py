"""Cases are paired by name, groups come from a table or a pattern, and what cannot be used is refused by name."""

from pathlib import Path

import pytest

from flexseg.errors import UserError
from flexseg.files.cases import discover, discover_pairs


def lay(folder: Path, *names: str) -> Path:
    """Empty files: discovery opens no image."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def flat(folder: Path, *stems: str) -> Path:
    return lay(folder, *(f"images/{stem}.jpg" for stem in stems), *(f"masks/{stem}.png" for stem in stems))


def refusal(*args, **options) -> str:
    with pytest.raises(UserError) as caught:
        discover(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_and_masks_are_paired_by_stem_whatever_their_ending_and_order(tmp_path):
    lay(tmp_path, "images/b.jpg", "masks/a.tif", "images/a.PNG", "masks/b.bmp", "images/c.d.tiff", "masks/c.d.png")
    cases = discover(tmp_path).cases
    assert [(case.case_id, case.image.name, case.mask.name, case.split) for case in cases] == [
        ("a", "a.PNG", "a.tif", None),
        ("b", "b.jpg", "b.bmp", None),
        ("c.d", "c.d.tiff", "c.d.png", None),
    ]


@pytest.mark.parametrize("valid", ["valid", "val", "validation"])
def test_the_folders_of_a_split_layout_name_the_split(tmp_path, valid):
    lay(tmp_path, "train/images/a.png", "train/masks/a.png", f"{valid}/images/b.png", f"{valid}/masks/b.png", "mini_test/images/z.png")
    assert [(case.case_id, case.split) for case in discover(tmp_path).cases] == [("a", "train"), ("b", "valid")]


def test_one_stem_in_two_splits_gives_two_cases_of_one_group(tmp_path):
    lay(tmp_path, *(f"{split}/{kind}/{stem}.png" for split in ("train", "test") for kind in ("images", "masks") for stem in ("a", split)))
    cases = discover(tmp_path).cases
    assert [(case.case_id, case.group) for case in cases] == [("test", "test"), ("test_a", "a"), ("train", "train"), ("train_a", "a")]


def test_an_id_made_from_split_and_stem_never_hides_another_case(tmp_path):
    lay(tmp_path, *(f"{split}/{kind}/a.png" for split in ("train", "test") for kind in ("images", "masks")))
    lay(tmp_path, "test/images/train_a.png", "test/masks/train_a.png")
    message = refusal(tmp_path)
    assert "train/images/a.png" in message and "test/images/train_a.png" in message


def test_patterns_are_literal_but_for_the_case(tmp_path):
    lay(tmp_path, "images/a_img.png", "images/bximg.png", "masks/a+mask.png")
    found = discover(tmp_path, image_pattern="{case}_img", mask_pattern="{case}+mask")
    assert [case.case_id for case in found.cases] == ["a"]
    assert "bximg.png" in found.warnings[0]


@pytest.mark.parametrize("pattern", ["mask", "{case}{case}", "masks/{case}", "{case}_mask.png"])
def test_a_pattern_that_is_no_stem_with_the_case_in_it_is_refused(tmp_path, pattern):
    assert pattern in refusal(flat(tmp_path, "a"), mask_pattern=pattern)


def test_images_without_mask_are_counted_and_up_to_five_named(tmp_path):
    lay(flat(tmp_path, "a"), *(f"images/x{number}.png" for number in range(8)))
    message = refusal(tmp_path)
    assert "8 of 9" in message and "x4.png" in message and "x5.png" not in message


def test_a_mask_without_image_is_named(tmp_path):
    assert "lonely.png" in refusal(lay(flat(tmp_path, "a"), "masks/lonely.png"))


@pytest.mark.parametrize(
    ("image", "mask", "cure"),
    [
        ("{}", "{}_mask", "--mask_pattern='{case}_mask'"),
        ("{}_img", "seg-{}", "--image_pattern='{case}_img' --mask_pattern='seg-{case}'"),
    ],
)
def test_stems_that_are_related_are_cured_by_the_printed_pattern(tmp_path, image, mask, cure):
    stems = ("1", "11", "2", "s12")
    lay(tmp_path, *(f"images/{image.format(stem)}.png" for stem in stems), *(f"masks/{mask.format(stem)}.png" for stem in stems))
    assert cure in refusal(tmp_path)
    flags = dict(part.removeprefix("--").replace("'", "").split("=") for part in cure.split())
    assert [case.case_id for case in discover(tmp_path, **flags).cases] == sorted(stems)


def test_two_files_of_one_stem_are_refused_by_both_names(tmp_path):
    message = refusal(lay(flat(tmp_path, "a"), "images/a.png"))
    assert "a.jpg" in message and "a.png" in message


def test_an_image_of_a_split_is_never_paired_with_a_mask_of_another(tmp_path):
    lay(tmp_path, "train/images/a.png", "train/masks/b.png", "test/images/b.png", "test/masks/a.png")
    assert "train" in refusal(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("readme.txt",),
        ("Images/a.png", "Masks/a.png"),
        ("images/a.png",),
        ("train/masks/a.png",),
        ("train/images/a.png", "train/masks/a.png", "test/images/b.png"),
    ],
)
def test_a_folder_in_neither_layout_is_told_both(tmp_path, names):
    message = refusal(lay(tmp_path, *names))
    assert "images/ and masks/" in message and "train/, valid/ and test/" in message


def test_a_missing_folder_an_empty_one_and_two_layouts_at_once_are_refused(tmp_path):
    assert "nothing of that name" in refusal(tmp_path / "none")
    (tmp_path / "empty" / "images").mkdir(parents=True)
    (tmp_path / "empty" / "masks").mkdir()
    assert "none" in refusal(tmp_path / "empty")
    assert "images/ beside train/" in refusal(lay(flat(tmp_path / "two", "a"), "train/images/b.png"))
    assert "val/" in refusal(lay(tmp_path / "three", "val/images/a.png", "valid/images/a.png"))


def test_hidden_files_and_other_files_are_skipped_and_unread_image_formats_counted(tmp_path):
    lay(flat(tmp_path, "a"), "images/.a.png", "images/._a.png", "images/Thumbs.db", "images/list.csv", "images/sub/b.png")
    lay(tmp_path, "images/c.webp", "images/d.webp")
    found = discover(tmp_path)
    assert [case.case_id for case in found.cases] == ["a"]
    (warning,) = [warning for warning in found.warnings if "left out" in warning]
    assert "2 .webp files" in warning


@pytest.mark.parametrize("name", ["a\\b", "a\nb", b"a\xff".decode("utf-8", "surrogateescape")])
def test_a_name_that_cannot_be_a_case_id_is_refused(tmp_path, name):
    assert "rename" in refusal(flat(tmp_path, name))


def test_pairs_are_found_in_folders_that_stand_anywhere(tmp_path):
    lay(tmp_path, "here/a.png", "there/a_m.png")
    assert discover_pairs(tmp_path / "here", tmp_path / "there", mask_pattern="{case}_m").cases[0].mask == tmp_path / "there" / "a_m.png"
    assert discover_pairs(tmp_path / "here").cases[0].mask is None


# Groups.


def write_groups(folder: Path, text: str) -> Path:
    (folder / "groups.csv").write_text(text, encoding="utf-8")
    return folder


def groups(folder: Path, **options) -> dict[str, str]:
    return {case.case_id: case.group for case in discover(folder, **options).cases}


def test_groups_come_from_the_table_by_file_name_or_stem(tmp_path):
    write_groups(flat(tmp_path, "a", "b"), "\ufeffimage,w,group\nb,3,two\n\na.jpg,3,one\nz.png,1,unused\n")
    assert groups(tmp_path) == {"a": "one", "b": "two"}


def test_groups_come_from_the_column_that_is_named(tmp_path):
    assert groups(write_groups(flat(tmp_path, "a"), "image,group,tile\na.jpg,1,2\n"), group_column="tile") == {"a": "2"}


def test_a_path_in_the_table_tells_two_files_of_one_name_apart(tmp_path):
    lay(tmp_path, *(f"{split}/{kind}/a.png" for split in ("train", "test") for kind in ("images", "masks")))
    write_groups(tmp_path, "image,group\ntrain/images/a.png,1\ntest/images/a.png,2\n")
    assert groups(tmp_path) == {"train_a": "1", "test_a": "2"}


def test_a_table_without_the_column_is_no_error_but_a_warning_that_names_it(tmp_path):
    found = discover(write_groups(flat(tmp_path, "a"), "image,tile,width\na.jpg,2,3\n"), group_column="tiles")
    assert found.cases[0].group == "a"
    (warning,) = found.warnings
    assert all(word in warning for word in ("'tiles'", "image, tile, width", "--group_column=", "Did you mean 'tile'"))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("image,group\na.jpg,1\n", "b.jpg"),
        ("image,group\na.jpg,1\nb,2\nb,2\n", "two for b"),
        ("image,group\na.jpg,1\na,1\nb,2\n", "a.jpg and a"),
        ("image,group\na,1\nb\n", "line 3"),
        ("image,group\na,1\nb,\n", "line 3"),
        ("file,group\na,1\nb,1\n", "file, group"),
    ],
)
def test_a_table_that_does_not_give_each_image_one_group_is_refused(tmp_path, text, word):
    assert word in refusal(write_groups(flat(tmp_path, "a", "b"), text))


def test_groups_come_from_a_pattern_on_the_stem(tmp_path):
    flat(tmp_path, "1010", "barrdistorted_1001_0.3_0.3_1010", "deformed_alpha_1300_sigmoid_8_1026")
    assert list(groups(tmp_path, group_pattern=r"(\d+)$").values()) == ["1010", "1010", "1026"]


def test_a_pattern_is_searched_in_the_case_not_in_what_the_image_pattern_takes_off(tmp_path):
    lay(tmp_path, "images/p7_img9.png", "masks/p7.png")
    assert groups(tmp_path, image_pattern="{case}_img9", group_pattern=r"(\d+)$") == {"p7": "7"}


@pytest.mark.parametrize(("pattern", "word"), [("(", "expression"), (r"\d+", "with 0"), (r"(\d)(\d)", "with 2"), (r"(\d+)", "'b'"), ("a|(b)", "a")])
def test_a_pattern_that_gives_no_group_is_refused(tmp_path, pattern, word):
    assert word in refusal(flat(tmp_path, "a1", "b"), group_pattern=pattern).replace(": b", " 'b'")


def test_a_pattern_beside_the_column_is_refused_and_beside_another_table_is_used(tmp_path):
    assert "groups.csv" in refusal(write_groups(flat(tmp_path, "a1"), "image,group\na1,1\n"), group_pattern=r"(\d)")
    assert groups(write_groups(tmp_path, "image,width\na1,1\n"), group_pattern=r"(\d)") == {"a1": "1"}


def test_names_that_derive_from_one_picture_bring_the_ready_flag(tmp_path):
    (warning,) = discover(flat(tmp_path, "1010", "barrdistorted_1001_0.3_0.3_1010", "1011")).warnings
    assert r"--group_pattern='(\d+)$'" in warning and "leak" in warning
    (warning,) = discover(
        flat(tmp_path / "reference", "barrdistorted_1001_0.3_0.3_1009", "deformed_8_1009", "deformed_9_1022", "rotated_1022")
    ).warnings
    assert r"--group_pattern='(\d+)$'" in warning, "no source image among them"
    for restarting in (("1", "2", "3"), ("left_1", "left_2", "right_1", "right_2"), ("tile1_01", "tile1_02", "tile2_01", "tile2_02")):
        (warning,) = discover(flat(tmp_path / restarting[0], *restarting)).warnings
        assert "leak" in warning and "(\\d+)" not in warning
    (warning,) = discover(flat(tmp_path / "unrelated", "1", "2", "3")).warnings
    assert "leak" in warning and "(\\d+)" not in warning
