"""Two network namespaces on one host, with a virtual cable between them that can be cut.

Usage:
    with Network(0).made() as network:
        subprocess.Popen([*network.prefix(0), ...])
        network.cut()
"""

import contextlib
import subprocess
from collections.abc import Iterator

_SUBNET = "10.213.7"


class Network:
    """Two network namespaces connected by a veth pair."""

    def __init__(self, number: int):
        self._names = [f"flexseg{number}{side}" for side in "ab"]
        self._cards = [f"fs{number}{side}" for side in "ab"]
        self.addresses = [f"{_SUBNET}.{worker + 1}:{2222 + worker}" for worker in range(2)]

    @contextlib.contextmanager
    def made(self) -> Iterator["Network"]:
        """A context in which the namespaces exist."""
        for name in self._names:
            _ip("netns", "add", name)
        try:
            _ip("link", "add", self._cards[0], "type", "veth", "peer", "name", self._cards[1])
            for worker, (name, card) in enumerate(zip(self._names, self._cards, strict=True)):
                _ip("link", "set", card, "netns", name)
                _ip("-n", name, "addr", "add", f"{_SUBNET}.{worker + 1}/24", "dev", card)
                for link in (card, "lo"):
                    _ip("-n", name, "link", "set", link, "up")
            yield self
        finally:
            for name in self._names:
                _ip("netns", "delete", name)

    def prefix(self, worker: int) -> list[str]:
        """The words in front of a command of a worker."""
        return ["ip", "netns", "exec", self._names[worker]]

    def cut(self) -> None:
        """Cuts the connection."""
        _ip("-n", self._names[0], "link", "set", self._cards[0], "down")

    def restore(self) -> None:
        """Restores the connection."""
        _ip("-n", self._names[0], "link", "set", self._cards[0], "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
