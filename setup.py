"""Finds the packages: `datasets/`, `configs/` and `launch/` stand at the top level for people and are imported as `flexseg.datasets`, …

A top-level import called `datasets` would collide with another library's.
"""

from setuptools import find_packages, setup

BELOW_FLEXSEG = ("datasets", "configs", "launch")
found = [name for room in BELOW_FLEXSEG for name in find_packages(include=[room, f"{room}.*"])]

setup(
    packages=[*find_packages(include=["flexseg", "flexseg.*"]), *(f"flexseg.{name}" for name in found)],
    package_dir={"flexseg": "flexseg", **{f"flexseg.{room}": room for room in BELOW_FLEXSEG}},
    package_data={f"flexseg.{name}": ["*.gin", "README.md", "CITATIONS.bib", "TAGS.txt"] for name in found},
)
