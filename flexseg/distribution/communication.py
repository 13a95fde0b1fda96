"""All-reduce options: the flags --all_reduce and --all_reduce_pack_mib.

    communication = Communication(all_reduce="nccl", pack_mib=32)
    communication.check(devices=8, on_gpu=True, workers=1)
    context.all_reduce(op, gradients, communication.options())

The options apply to gradients; collectives of evaluation and of `Replicas` use TensorFlow's defaults.
"""

import dataclasses
from typing import Literal

import tensorflow as tf

from flexseg.errors import UserError

AllReduce = Literal["auto", "nccl", "ring", "hierarchical_copy"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Communication:
    """The all-reduce algorithm and its packing.

    Attributes:
      all_reduce: `auto`, TensorFlow's choice (NCCL between the GPUs of a host, else ring); `nccl`; `ring`, TensorFlow's ring over gRPC or within
        a process; `hierarchical_copy`, copies over the links of one host.
      pack_mib: size of a gradient pack in MiB (bytes_per_pack): the first packs are reduced while later gradients are computed; 0 for a single pack
        with `nccl` and `ring`.
    """

    all_reduce: AllReduce = "auto"
    pack_mib: int = 0

    def check(self, *, devices: int, on_gpu: bool, workers: int) -> None:
        """Raises a UserError for options that these devices do not support."""
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
        """Whether the strategy needs HierarchicalCopyAllReduce."""
        return self.all_reduce == "hierarchical_copy"

    def options(self) -> tf.distribute.experimental.CommunicationOptions:
        """The CommunicationOptions of the gradient all-reduce."""
        kinds = tf.distribute.experimental.CommunicationImplementation
        chosen = {"nccl": kinds.NCCL, "ring": kinds.RING}.get(self.all_reduce, kinds.AUTO)
        return tf.distribute.experimental.CommunicationOptions(bytes_per_pack=self.pack_mib * 2**20, implementation=chosen)
