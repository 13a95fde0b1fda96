"""Flags made from the signature and the docstring of a command's `run`."""

from collections.abc import Sequence
from typing import Annotated, Literal

import pytest
from absl import flags

from flexseg.commands.config_flags import AtLeast, CommaSeparated, Natural, Positive, flags_of, values
from flexseg.config.docstrings import documented


def run(
    first,
    *,
    workdir: str,
    replicas: Positive = 1,
    worker: Natural | None = None,
    classes: Annotated[int, AtLeast(2)] = 2,
    measure: bool = True,
    split: Literal["valid", "test"] = "test",
    image_size: CommaSeparated = (256,),
    gin_param: Sequence[str] = (),
):
    """Does something.

    Args:
      first: positional, no flag.
      worker: Which one, from 0: the chief is 0,
        and the others follow.
      classes: How many.
      measure: Whether to measure.
      split: Which part.
      image_size: Height and width.

    Returns:
      workdir: nothing of this is a parameter.
    """


def parsed(*arguments):
    registry = flags_of(run)
    registry(["program", *arguments])
    return values(registry)


def test_every_keyword_is_a_flag_with_the_default_of_the_signature():
    assert parsed() == {
        "workdir": None, "replicas": 1, "worker": None, "classes": 2, "measure": True, "split": "test", "image_size": ["256"], "gin_param": [],
    }  # fmt: skip


def test_flags_are_parsed_by_their_annotation():
    found = parsed("--workdir=a", "--worker=0", "--nomeasure", "--split=valid", "--image_size=8,16", "--gin_param=a.b=(1, 2)", "--gin_param=c.d=3")
    assert found["worker"] == 0 and found["measure"] is False and found["image_size"] == ["8", "16"] and found["gin_param"] == ["a.b=(1, 2)", "c.d=3"]


@pytest.mark.parametrize("flag", ["--replicas=0", "--worker=-1", "--classes=1", "--split=train", "--replicas=one"])
def test_a_value_out_of_range_is_refused(flag):
    with pytest.raises(flags.Error):
        parsed(flag)


def test_sentences_are_the_docstring_s_and_else_the_shared_ones():
    registry = flags_of(run)
    assert registry["worker"].help == "Which one, from 0: the chief is 0, and the others follow."
    assert registry["workdir"].help == "The run directory."
    assert set(documented(run.__doc__)) == {"first", "worker", "classes", "measure", "split", "image_size"}


def test_a_flag_without_a_sentence_or_with_an_unknown_annotation_is_an_error_of_the_programmer():
    def without(*, surprise: str = ""):
        """Nothing."""

    def odd(*, workdir: dict):
        """Nothing."""

    with pytest.raises(KeyError, match="surprise"):
        flags_of(without)
    with pytest.raises(TypeError, match="--workdir: no flag is made of"):
        flags_of(odd)
