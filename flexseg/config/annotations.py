"""Checks the type of a gin value against the annotation of its parameter. gin does not: it accepts `lr='0.1'`.

fit(3, float)                                # 3.0
fit([2, 3], tuple[int, int])                 # (2, 3)
fit("sdg", Literal["adam", "sgd"])           # TypeError
in_words(tuple[int, int] | None)             # "(int, int) or None"
"""

import collections.abc
import contextlib
import inspect
import types
import typing
from dataclasses import dataclass


@dataclass(frozen=True)
class Symbol:
    """A reference `@name`, an evaluated reference `@name()`, or a macro `%name`."""

    sign: str
    name: str
    call: str = ""

    def __repr__(self) -> str:
        return self.sign + self.name + self.call


def fit(value: object, annotation: object) -> object:
    """Converts a value to the annotated type (3 -> 3.0 for float, [2, 3] -> (2, 3) for a tuple); raises a TypeError if it does not fit."""
    kind, arguments = typing.get_origin(annotation) or annotation or types.NoneType, typing.get_args(annotation)
    if kind in (typing.Union, types.UnionType):
        fitted = []
        for member in arguments:
            with contextlib.suppress(TypeError, ValueError):
                fitted.append(fit(value, member))
        if fitted:
            return next((result for result in fitted if type(result) is type(value)), fitted[0])
    elif kind is typing.Literal:
        if any(choice == value and type(choice) is type(value) for choice in arguments):
            return value
    elif kind is collections.abc.Callable:
        if isinstance(value, Symbol) and not value.call:
            return value
    elif isinstance(value, Symbol) and (value.call or kind not in (bool, int, float, str, tuple, list, dict, types.NoneType)):
        return value  # `@f()` may return any type; `@f` is no number, text or sequence
    elif kind is float and (type(value) is int or type(value) is float):
        return float(value)
    elif kind in (tuple, list, collections.abc.Sequence) and isinstance(value, list | tuple):
        fixed = kind is tuple and arguments and arguments[-1] is not ...
        members = arguments if fixed else [arguments[0] if arguments else object] * len(value)
        return (list if kind is list else tuple)(fit(part, member) for part, member in zip(value, members, strict=True))
    elif kind in (dict, collections.abc.Mapping) and isinstance(value, dict):
        of_key, of_value = arguments or (object, object)
        return {fit(key, of_key): fit(part, of_value) for key, part in value.items()}
    elif kind in (inspect.Parameter.empty, object) or not isinstance(kind, type) or type(value) is kind:
        return value
    raise TypeError


def in_words(annotation: object) -> str:
    """A type as a user writes its values: `int or None`, `(int, int)`, `'adam' or 'sgd'`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is inspect.Parameter.empty:
        return "any value"
    if annotation in (None, types.NoneType):
        return "None"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(in_words, arguments))
    if origin is typing.Literal:
        return " or ".join(map(repr, arguments))
    if origin is collections.abc.Callable or annotation is collections.abc.Callable:
        return "@function"
    if origin is tuple and arguments[-1:] == (...,):
        inner = in_words(arguments[0])
        return f"tuple of ({inner})" if " or " in inner else f"tuple of {inner}"
    if origin is tuple:
        return f"({', '.join(map(in_words, arguments))})"
    if origin in (dict, collections.abc.Mapping):
        return f"{{{in_words(arguments[0])}: {in_words(arguments[1])}}}"
    if origin in (list, collections.abc.Sequence):
        return f"sequence of {in_words(arguments[0])}"
    return getattr(annotation, "__name__", str(annotation))
