"""Input on other hosts by TensorFlow's tf.data service: the flag --data_service.

    refuse_unreachable(["grpc://a:5050", "grpc://b:5050"])
    dataset = striped(lambda stripe, stripes: ..., ["grpc://a:5050", "grpc://b:5050"])

Every host runs a dispatcher and one worker (`python -m flexseg.launch.data_service`). Two workers behind one dispatcher would duplicate or reorder
what they read; so host i alone makes batches i, i + M, i + 2 M, … of M hosts, and the trainer takes them in turn: the same global batches as
without a service, whatever the number of hosts. The hosts must see the dataset's files under the same path.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import tensorflow as tf

from flexseg.errors import UserError

_PATIENCE_SECONDS = 10.0
_FLAG = "--data_service"


def refuse_unreachable(addresses: Sequence[str]) -> None:
    """Refuses, with a UserError, what is no address of a host that serves: TensorFlow itself would try for ever."""
    if len(set(addresses)) < len(addresses):
        raise UserError(_FLAG, expected="every host once", found=", ".join(addresses))
    for address in addresses:
        parts = urlsplit(address)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if parts.scheme != "grpc" or host is None or port is None or parts.path:
            raise UserError(_FLAG, expected="grpc://host:port, several with commas between", found=repr(address))
        cure = f"on that host: python -m flexseg.launch.data_service --port={port}"
        try:
            socket.create_connection((host, port), timeout=_PATIENCE_SECONDS).close()
        except (OSError, UnicodeError) as error:  # a name that is none, in the encoding of host names
            raise UserError(_FLAG, expected=f"a server at {address}", found=str(error), cure=cure) from error
        if not _gives_an_element(address):
            cure += f" --host=NAME, a name or address of it that this host knows; is port {port + 1} open too?"
            raise UserError(_FLAG, expected=f"data from {address}", found=f"none within {_PATIENCE_SECONDS:g} s, though it is listening", cure=cure)


def _gives_an_element(address: str) -> bool:
    """Whether one element comes from the worker behind a dispatcher: the worker has a port of its own, under the name that it gave itself."""
    came = threading.Event()

    def fetch() -> None:
        with contextlib.suppress(tf.errors.OpError):
            for _ in striped(lambda *_: tf.data.Dataset.range(1), [address]).take(1):
                came.set()

    threading.Thread(target=fetch, daemon=True).start()  # nothing ends a fetch that waits
    return came.wait(_PATIENCE_SECONDS)


def striped(make: Callable[[int, int], tf.data.Dataset], addresses: Sequence[str]) -> tf.data.Dataset:
    """The elements of `make(0, 1)`, computed on the hosts at `addresses`, or here where there are none.

    Args:
      make: (stripe, stripes) -> a dataset of elements stripe, stripe + stripes, stripe + 2 · stripes, … of an endless sequence.
      addresses: grpc://host:port of each host.
    """
    if not addresses:
        return make(0, 1)
    off = tf.data.experimental.service.ShardingPolicy.OFF  # the one worker of a host computes all that it is given
    stripes = [
        make(number, len(addresses)).apply(tf.data.experimental.service.distribute(processing_mode=off, service=address))
        for number, address in enumerate(addresses)
    ]
    return tf.data.Dataset.choose_from_datasets(stripes, tf.data.Dataset.range(len(stripes)).repeat(), stop_on_empty_dataset=False)
