"""A performance model of a step over many GPUs: compute, then a hierarchical ring all-reduce.

    link = fit([(bytes_1, seconds_1), (bytes_2, seconds_2)], count=2)
    step_seconds(64, parameter_bytes=5e8, compute=0.25, within=Link(450e9, 5e-6), between=Link(50e9, 10e-6), gpus_per_host=8)

A ring all-reduce of B bytes over n devices sends 2 (n - 1) messages of B / n bytes (Patarasuk and Yuan 2009, J. Parallel Distrib. Comput. 69,
117-124): 2 (n - 1) (B / (n · bandwidth) + latency). Over hosts of g GPUs each: reduce-scatter and all-gather within a host, and between hosts g
concurrent rings, each with 1/g of the bytes and 1/g of the host's bandwidth. Compute and communication do not overlap: gradients are reduced once,
after the backward pass.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Link:
    """bandwidth: bytes per second in each direction, of a device (or of a host, between hosts); latency: seconds per message."""

    bandwidth: float
    latency: float


def ring_seconds(parameter_bytes: float, count: int, link: Link) -> float:
    """Seconds of a ring all-reduce over `count` devices."""
    return 2 * (count - 1) * (parameter_bytes / (count * link.bandwidth) + link.latency)


def all_reduce_seconds(parameter_bytes: float, count: int, *, within: Link, between: Link, gpus_per_host: int) -> float:
    """Seconds of an all-reduce over `count` GPUs: at most one host, or a multiple of `gpus_per_host`."""
    if count <= gpus_per_host:
        return ring_seconds(parameter_bytes, count, within)
    if count % gpus_per_host:
        raise ValueError(f"expected a multiple of the {gpus_per_host} GPUs of a host, found {count}")
    rail = Link(between.bandwidth / gpus_per_host, between.latency)
    return ring_seconds(parameter_bytes, gpus_per_host, within) + ring_seconds(parameter_bytes / gpus_per_host, count // gpus_per_host, rail)


def step_seconds(count: int, *, parameter_bytes: float, compute: float, within: Link, between: Link, gpus_per_host: int) -> float:
    """Seconds of a step over `count` GPUs; `compute` is that of a step on one GPU with the same examples per GPU."""
    return compute + all_reduce_seconds(parameter_bytes, count, within=within, between=between, gpus_per_host=gpus_per_host)


def fit(measured: Sequence[tuple[float, float]], *, count: int) -> Link:
    """The link that fits all-reduces over `count` devices: (bytes, seconds) of two sizes or more, least squares of relative errors."""
    size, seconds = np.array(measured).T
    per_byte, per_message = 2 * (count - 1) / count * size, np.full(len(size), 2.0 * (count - 1))
    # relative errors, so that the small all-reduces determine the latency
    slope, latency = np.linalg.lstsq(np.stack([per_byte, per_message], axis=1) / seconds[:, None], np.ones(len(size)), rcond=None)[0]
    return Link(1 / max(slope, 1e-15), max(latency, 0.0))
