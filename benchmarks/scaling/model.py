"""A model of a step over many GPUs: compute, then a ring all-reduce, within hosts first.

    link = fit([(bytes_1, seconds_1), (bytes_2, seconds_2)], count=2)
    step_seconds(64, parameter_bytes=5e8, compute=0.25, within=Link(450e9, 5e-6), between=Link(50e9, 10e-6), gpus_per_host=8)

A ring all-reduce of B bytes over n devices takes 2 (n - 1) messages of B / n bytes each (Patarasuk and Yuan 2009, J. Parallel Distrib. Comput. 69,
117-124): 2 (n - 1) (B / (n · bandwidth) + latency). Over hosts of g GPUs each: reduce-scatter and all-gather within a host, and between them g rings
at once, each with a g-th of the bytes over a g-th of the host's bandwidth. Nothing overlaps: the step reduces once, after the backward pass.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Link:
    """bandwidth: bytes per second that a device (a host, between hosts) sends while it receives as much; latency: seconds a message."""

    bandwidth: float
    latency: float


def ring_seconds(parameter_bytes: float, count: int, link: Link) -> float:
    """A ring all-reduce over `count` devices."""
    return 2 * (count - 1) * (parameter_bytes / (count * link.bandwidth) + link.latency)


def all_reduce_seconds(parameter_bytes: float, count: int, *, within: Link, between: Link, gpus_per_host: int) -> float:
    """An all-reduce over `count` GPUs on hosts of `gpus_per_host` each, of which `count` must be a multiple, or less than one host."""
    if count <= gpus_per_host:
        return ring_seconds(parameter_bytes, count, within)
    if count % gpus_per_host:
        raise ValueError(f"expected a multiple of the {gpus_per_host} GPUs of a host, found {count}")
    rail = Link(between.bandwidth / gpus_per_host, between.latency)
    return ring_seconds(parameter_bytes, gpus_per_host, within) + ring_seconds(parameter_bytes / gpus_per_host, count // gpus_per_host, rail)


def step_seconds(count: int, *, parameter_bytes: float, compute: float, within: Link, between: Link, gpus_per_host: int) -> float:
    """A step over `count` GPUs, each with the same share of examples as in `compute`, the seconds of a step on one."""
    return compute + all_reduce_seconds(parameter_bytes, count, within=within, between=between, gpus_per_host=gpus_per_host)


def fit(measured: Sequence[tuple[float, float]], *, count: int) -> Link:
    """The link that explains all-reduces over `count` devices best: (bytes, seconds) of two sizes or more, by least squares."""
    size, seconds = np.array(measured).T
    per_byte, per_message = 2 * (count - 1) / count * size, np.full(len(size), 2.0 * (count - 1))
    # relative errors: the small all-reduce tells the latency and must not drown in the large one's
    slope, latency = np.linalg.lstsq(np.stack([per_byte, per_message], axis=1) / seconds[:, None], np.ones(len(size)), rcond=None)[0]
    return Link(1 / max(slope, 1e-15), max(latency, 0.0))
