"""Compares the configuration of all workers before the first step.

    agree(replicas, {"configuration": text, "dataset manifest": digest, "flexseg": "0.1"}, refusal=None)

A difference or an error on one worker stops all workers with the same message, so that none waits in a collective.
"""

import json
from collections.abc import Mapping

from flexseg.distribution.replicas import Replicas
from flexseg.errors import UserError

_NO_CURES: Mapping[str, str] = {}


def agree(replicas: Replicas, facts: Mapping[str, str], *, refusal: UserError | None, cures: Mapping[str, str] = _NO_CURES) -> None:
    """Compares facts and errors of all workers. All workers must call it.

    Args:
      replicas: the devices.
      facts: {name: text} that must be equal on all workers.
      refusal: the error of this worker, if it has one.
      cures: {name of a fact: what to do where it differs}, with {} for the chief's text; default: start all workers with the same command.

    Raises:
      UserError: the error of any worker, or the first difference between the chief and another worker.
    """
    if refusal is not None and replicas.workers == 1:
        raise refusal
    fields = None if refusal is None else [refusal.where, refusal.expected, refusal.found, refusal.cure]
    messages = [json.loads(content) for content in replicas.gather(json.dumps({"facts": dict(facts), "refusal": fields}).encode())]
    for worker, other in enumerate(messages):
        if other["refusal"] is not None:
            where, expected, found, cure = other["refusal"]
            who = where if worker == replicas.worker else f"worker {worker}: {where}"
            raise UserError(who, expected=expected, found=found, cure=cure) from refusal
    chief = messages[0]["facts"]
    for worker, other in enumerate(messages):
        for name in sorted({*chief, *other["facts"]}):
            mine, theirs = chief.get(name, "nothing"), other["facts"].get(name, "nothing")
            if mine != theirs:
                cure = cures.get(name, "start all workers with the same command, on the same data").format(mine)
                mine, theirs = _difference(mine, theirs)
                raise UserError(f"worker {worker}", expected=f"the chief's {name}: {mine}", found=theirs, cure=cure)


def _difference(mine: str, theirs: str) -> tuple[str, str]:
    """The lines that only the first and only the second text has, each joined into one line."""
    first, second = mine.splitlines(), theirs.splitlines()
    only = ([line.strip() for line in lines if line not in others] for lines, others in ((first, second), (second, first)))
    one, other = ("; ".join(lines) or "no such line" for lines in only)
    return one, other
