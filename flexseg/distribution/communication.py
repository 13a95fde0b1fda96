"""How gradients cross between devices: the flags --all_reduce and --all_reduce_pack_mib.

Usage:
    communication = Communication(all_reduce="nccl", pack_mib=32)
    communication.check(devices=8, on_gpu=True, workers=1)
    context.all_reduce(op, gradients, communication.options())
"""

import dataclasses
from typing import Literal, get_args

import tensorflow as tf

from flexseg.errors import UserError

AllReduce = Literal["auto", "nccl", "ring", "hierarchical_copy"]
ALL_REDUCE = get_args(AllReduce)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Communication:
    """An algorithm and a packing.

    Attributes:
      all_reduce: `auto` leaves the choice to TensorFlow (NCCL between the GPUs of one host, ring elsewhere); `nccl`; `ring`, TensorFlow's own
        over gRPC or within a process; `hierarchical_copy`, by copies over the links of one host.
      pack_mib: gradients are sent in packs of this many MiB, so that the first can travel while the last are computed; 0 sends them together
        with `nccl` and `ring`.
    """

    all_reduce: AllReduce = "auto"
    pack_mib: int = 0

    def check(self, *, devices: int, on_gpu: bool, workers: int) -> None:
        """Refuses, with a UserError, what these devices cannot do."""
        if self.all_reduce in ("auto", "ring"):
            expected = None
        elif not on_gpu:
            expected = "'auto' or 'ring' on CPUs"
        else:
            expected = "'auto', 'nccl' or 'ring' between several workers" if self.hierarchical and workers > 1 else None
        if devices > 1 and expected:
            raise UserError("--all_reduce", expected=expected, found=repr(self.all_reduce))
        if self.pack_mib and self.all_reduce == "hierarchical_copy":
            raise UserError("--all_reduce_pack_mib", expected="0 with --all_reduce=hierarchical_copy", found=str(self.pack_mib))

    @property
    def hierarchical(self) -> bool:
        """Whether a strategy of its own kind is needed."""
        return self.all_reduce == "hierarchical_copy"

    def options(self) -> tf.distribute.experimental.CommunicationOptions:
        """For every all-reduce of gradients."""
        kinds = tf.distribute.experimental.CommunicationImplementation
        chosen = {"nccl": kinds.NCCL, "ring": kinds.RING}.get(self.all_reduce, kinds.AUTO)
        return tf.distribute.experimental.CommunicationOptions(bytes_per_pack=self.pack_mib * 2**20, implementation=chosen)
