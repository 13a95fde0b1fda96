"""Agreement: before the first step, all workers say what they are about to do, and go on only if it is the same.

    agree(replicas, {"configuration": text, "dataset manifest": digest, "flexseg": "0.1"}, refusal=None)

A worker that differs, or that was refused what it needs, stops all of them with the same words: nobody is left waiting in a collective.
"""

import json
from collections.abc import Mapping

from flexseg.distribution.replicas import Replicas
from flexseg.errors import UserError

_NO_CURES: Mapping[str, str] = {}


def agree(replicas: Replicas, facts: Mapping[str, str], *, refusal: UserError | None, cures: Mapping[str, str] = _NO_CURES) -> None:
    """Compares the workers; all must call it.

    Args:
      replicas: the devices.
      facts: what must be the same everywhere, by name.
      refusal: what keeps this worker from going on, if anything does.
      cures: by the name of a fact, what to do where it differs, with {} for the chief's; default: start all workers alike.

    Raises:
      UserError: the refusal of this worker or of another one, or the first difference between the chief and another.
    """
    if refusal is not None and replicas.workers == 1:
        raise refusal
    fields = None if refusal is None else [refusal.where, refusal.expected, refusal.found, refusal.cure]
    told = [json.loads(content) for content in replicas.gather(json.dumps({"facts": dict(facts), "refusal": fields}).encode())]
    for worker, other in enumerate(told):
        if other["refusal"] is not None:
            where, expected, found, cure = other["refusal"]
            who = where if worker == replicas.worker else f"worker {worker}: {where}"
            raise UserError(who, expected=expected, found=found, cure=cure) from refusal
    chief = told[0]["facts"]
    for worker, other in enumerate(told):
        for name in sorted({*chief, *other["facts"]}):
            mine, theirs = chief.get(name, "nothing"), other["facts"].get(name, "nothing")
            if mine != theirs:
                cure = cures.get(name, "start all workers with the same command, on the same data").format(mine)
                mine, theirs = _difference(mine, theirs)
                raise UserError(f"worker {worker}", expected=f"the chief's {name}: {mine}", found=theirs, cure=cure)


def _difference(mine: str, theirs: str) -> tuple[str, str]:
    """The lines that only one of two texts has, in one line."""
    first, second = mine.splitlines(), theirs.splitlines()
    only = ([line.strip() for line in lines if line not in others] for lines, others in ((first, second), (second, first)))
    return tuple("; ".join(lines) or "no such line" for lines in only)
