"""@architecture: arguments that networks share are declared, checked and documented once.

    @gin.configurable("my_net")
    @architecture
    def my_net(*, task: Task, levels: Levels = Levels(base_filters=16, num_layers=4), style: ConvStyle = ConvStyle()) -> keras.Model:
        inputs, x = task.inputs()
        ...

    my_net(image_size=(512, 512), image_channels=3, num_classes=2, num_layers=5, activation="mish")

Task, Levels, ConvStyle and Encoder are Settings. A parameter of such a class stands for the arguments in its ARGUMENTS: callers and gin see
these, with the defaults of the parameter's default, and the function receives the object. A user's own network needs no decorator: `build_model`
takes any function of its contract.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import keras

from flexseg.config.docstrings import sentences_of
from flexseg.models.layers.arguments import Settings, check_argument

_NOTHING = inspect.Parameter.empty


@dataclasses.dataclass(frozen=True)
class Without:
    """An annotation: a network lacks one argument of its Settings, as in Annotated[ConvStyle, Without("group_count")]."""

    argument: str


@dataclasses.dataclass(frozen=True)
class _Grouped:
    """A parameter that stands for several arguments."""

    kind: type[Settings]
    default: Any  # an instance, or _NOTHING
    fields: Mapping[str, str]  # argument -> field

    @classmethod
    def of(cls, parameter: inspect.Parameter, annotation: Any, own: AbstractSet[str]) -> "_Grouped | None":
        """None for a parameter that is an argument itself. `own` are the arguments that the network declares itself."""
        marks = getattr(annotation, "__metadata__", ())
        kind = typing.get_args(annotation)[0] if marks else annotation
        if not (isinstance(kind, type) and issubclass(kind, Settings)):
            return None
        absent = own | {mark.argument for mark in marks if isinstance(mark, Without)}
        return cls(kind, parameter.default, {name: field for name, field in kind.ARGUMENTS.items() if name not in absent})

    def parameters(self) -> list[inspect.Parameter]:
        """The arguments as parameters, with their plain types and defaults."""
        types, source = typing.get_type_hints(self.kind), self.kind if self.default is _NOTHING else self.default
        return [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(source, field, _NOTHING), annotation=types[field])
            for name, field in self.fields.items()
        ]

    def build(self, owner: str, given: Mapping[str, object]) -> object:
        """The object of the arguments' values; its class checks them."""
        values = {field: given[name] for name, field in self.fields.items()}
        make: Callable = self.kind if self.default is _NOTHING else functools.partial(dataclasses.replace, self.default)
        return make(owner=owner, **values)


def architecture(function: Callable[..., keras.Model]) -> Callable[..., keras.Model]:
    """Makes a network of a function of keyword-only parameters.

    The signature of the result has plain types instead of Annotated ones. The result checks every argument before it calls the function: shared
    ones by their Settings, the function's own by their annotations (see arguments.py). A parameter of the function that has the name of a
    shared argument replaces it; the function checks it.

    Attributes of the result:
      shared_arguments: {argument: the Settings class that documents it}.

    Raises, when called:
      UserError: a value out of range. The message names the function and the argument.
    """
    owner, declared = function.__name__, inspect.signature(function).parameters
    annotations, plain = typing.get_type_hints(function, include_extras=True), typing.get_type_hints(function)
    own = {name for name in declared if _Grouped.of(declared[name], annotations[name], set()) is None}
    settings = {name: made for name in declared if (made := _Grouped.of(declared[name], annotations[name], own))}
    exposed: dict[str, inspect.Parameter] = {}
    shared: dict[str, type[Settings]] = {}
    for name, parameter in declared.items():
        if name in own:
            exposed[name] = parameter.replace(annotation=plain[name])
            continue
        for each in settings[name].parameters():
            exposed.setdefault(each.name, each)  # two classes may share one: the momentum of network and encoder
            shared.setdefault(each.name, settings[name].kind)
    signature = inspect.Signature(list(exposed.values()), return_annotation=plain["return"])
    replacing = {name for each in settings.values() for name in each.kind.ARGUMENTS}

    @functools.wraps(function)
    def network(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        values = {}
        for name in declared:
            if name in settings:
                values[name] = settings[name].build(owner, given)
                continue
            values[name] = given[name]
            if name not in replacing and (given[name] is not None or exposed[name].default is not None):  # None is in order where it is the default
                check_argument(given[name], annotations[name], owner=owner, name=name)
        return function(**values)

    vars(network).update(__signature__=signature, shared_arguments=shared)
    del network.__wrapped__  # gin would look for the arguments there
    return network


def argument_sentences(function: Callable[..., keras.Model]) -> dict[str, str]:
    """{argument: what it is}: from the function's own `Args:`, else from the `Attributes:` of its Settings; "" where neither says it."""
    own, shared, sentences = sentences_of(function), vars(function)["shared_arguments"], {}
    for argument in inspect.signature(function).parameters:
        kind = shared.get(argument)
        sentences[argument] = own.get(argument) or (sentences_of(kind).get(kind.ARGUMENTS[argument], "") if kind else "")
    return sentences
