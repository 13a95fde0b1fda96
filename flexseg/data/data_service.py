"""tf.data service: runs the input pipeline on other hosts: the flag --data_service.

    refuse_unreachable(["grpc://a:5050", "grpc://b:5050"])
    dataset = striped(lambda stripe, stripes: ..., ["grpc://a:5050", "grpc://b:5050"])

Every host runs a dispatcher with one worker (`python -m flexseg.launch.data_service`), because several workers of one dispatcher would duplicate or
reorder elements. Host i of M makes batches i, i + M, i + 2 M, …, and the trainer reads the hosts round-robin. So the global batches are the same as
without the service. The hosts must have the dataset under the same path.
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
    """Raises a UserError for a malformed, repeated or unreachable address, which TensorFlow would retry without end."""
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
        except (OSError, UnicodeError) as error:  # UnicodeError: not a host name
            raise UserError(_FLAG, expected=f"a server at {address}", found=str(error), cure=cure) from error
        if not _gives_an_element(address):
            cure += f" --host=NAME, a name or address of it that this host knows; is port {port + 1} open too?"
            raise UserError(_FLAG, expected=f"data from {address}", found=f"none within {_PATIENCE_SECONDS:g} s, though it is listening", cure=cure)


def _gives_an_element(address: str) -> bool:
    """Whether the worker of a dispatcher sends an element. It has another port, and may announce a host name that is unknown here."""
    received = threading.Event()

    def fetch() -> None:
        with contextlib.suppress(tf.errors.OpError):
            for _ in striped(lambda *_: tf.data.Dataset.range(1), [address]).take(1):
                received.set()

    threading.Thread(target=fetch, daemon=True).start()  # a waiting fetch cannot be cancelled
    return received.wait(_PATIENCE_SECONDS)


def striped(make: Callable[[int, int], tf.data.Dataset], addresses: Sequence[str]) -> tf.data.Dataset:
    """The dataset `make(0, 1)`, computed on the hosts at `addresses`, or on this host if there are none.

    Args:
      make: (stripe, stripes) -> dataset of elements stripe, stripe + stripes, stripe + 2 · stripes, … of an endless sequence.
      addresses: grpc://host:port of each host.
    """
    if not addresses:
        return make(0, 1)
    off = tf.data.experimental.service.ShardingPolicy.OFF  # the single worker of a host computes its whole stripe
    stripes = [
        make(number, len(addresses)).apply(tf.data.experimental.service.distribute(processing_mode=off, service=address))
        for number, address in enumerate(addresses)
    ]
    return tf.data.Dataset.choose_from_datasets(stripes, tf.data.Dataset.range(len(stripes)).repeat(), stop_on_empty_dataset=False)
