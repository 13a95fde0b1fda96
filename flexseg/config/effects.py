"""Finds bindings without effect, which would make a configuration a wrong record of the experiment.

    refuse_supplied(configuration)          # set by the dataset or another binding: flex_unet.num_classes
    notes = idle_bindings(configuration)    # disabled by another binding: plateau.reducer_factor without the reducer

On the command line they are errors. In a file they may come from an included file, so they cause a note only.
"""

import ast
from collections.abc import Mapping, Sequence

from flexseg.config.configure import Configuration
from flexseg.errors import UserError

# Arguments that flexseg passes to the architecture, and their source.
_SUPPLIED = {
    "image_size": 'bind input.image_size: --gin_param="input.image_size=(512,512)"',
    "image_channels": "leave it out: the dataset's images say it",
    "num_classes": 'the dataset says it; --gin_param="build_model.num_classes=1" takes the sigmoid form of two classes',
}
_OTHER_NAMES = {"channels": "image_channels", "classes": "num_classes"}  # of build_model
_OWN = {"build_model.num_classes", "build_model.image_channels"}  # have an effect

# A binding, or all of a configurable: (the binding that enables it, the values that do).
_NEEDS: dict[str, tuple[str, Sequence[object]]] = {
    "plateau": ("plateau.learning_rate_reducer", (True,)),
    "augment": ("augment.enabled", (True,)),
    "schedule.power": ("schedule.name", ("polynomial",)),
    "flex_unet.normalization_momentum": ("flex_unet.normalization", ("batch", "sync_batch", True)),
    "flex_unet.normalization_position": ("flex_unet.normalization", ("batch", "sync_batch", "group", True)),
    "epoch_change_infer.split": ("epoch_change_infer.images", (None,)),
    "label_map.threshold": ("label_map.off_map", ("threshold",)),
}


def refuse_supplied(configuration: Configuration, cures: Mapping[str, str] = _SUPPLIED) -> None:
    """Raises a UserError for bindings of parameters that flexseg passes to the architecture; `cures` name their source."""
    architecture = configuration.value("build_model.architecture").lstrip("@")
    for key in configuration.bindings:
        owner, _, parameter = key.rpartition(".")
        parameter = _OTHER_NAMES.get(parameter, parameter)
        if owner in ("build_model", architecture) and parameter in cures and key not in _OWN:
            raise UserError(key, expected="no such binding", found=configuration.bindings[key], cure=cures[parameter])


def idle_bindings(configuration: Configuration) -> list[str]:
    """A sentence for every binding of a file that another binding disables; a UserError for those of the command line.

    Bindings of another network than the selected one are errors on the command line, and in a file that has no others. In other files they are
    ignored, because a network's file may follow default.gin. None of them is an error for a network of the user's, which may contain others.
    """
    notes = []
    chosen = configuration.value("build_model.architecture").lstrip("@")
    _refuse_files_of_other_networks(configuration, chosen)
    for key, value in configuration.bindings.items():
        owner = key.rpartition(".")[0]
        typed = configuration.sources[key].startswith("--gin_param")
        if owner != chosen and _builds_a_network(configuration, owner):
            if typed and configuration.is_own(chosen):
                cure = f'--gin_param="build_model.architecture=@{owner}", or a binding of {chosen}'
                found = f"{chosen}, which this has no effect on"
                raise UserError(f"{key} = {value}", expected=f"build_model.architecture = @{owner} beside it", found=found, cure=cure)
            continue
        switch, acting = _switch(configuration, key)
        if key == switch or (found := ast.literal_eval(configuration.value(switch))) in acting:
            continue
        if typed:
            wanted = " or ".join(map(repr, acting))
            raise UserError(f"{key} = {value}", expected=f"{switch} = {wanted} beside it", found=f"{found!r}, with which it has no effect")
        notes.append(f"note: {key} has no effect while {switch} = {found!r}")
    return notes


def _refuse_files_of_other_networks(configuration: Configuration, chosen: str) -> None:
    """Refuses the file of a network that another file overrides: the configuration would name one network and the run train the other."""
    owners: dict[str, set[str]] = {}
    for key, source in configuration.sources.items():
        file = source.partition(", over ")[0].rpartition(":")[0]
        owners.setdefault(file, set()).add(key.rpartition(".")[0])
    for file, names in owners.items():
        others = file and chosen not in names and all(_builds_a_network(configuration, name) for name in names)
        if others and configuration.is_own(chosen):
            source = configuration.sources.get("build_model.architecture", "the default")
            cure = "leave the file out" if source.startswith("--") else f"give --gin_file={file} last, or leave it out"
            expected, found = f"build_model.architecture = @{min(names)} beside it", f"@{chosen} ({source}), with which the file has no effect"
            raise UserError(f"--gin_file={file}", expected=expected, found=found, cure=cure)


def _switch(configuration: Configuration, key: str) -> tuple[str, Sequence[object]]:
    """(the binding that enables `key`, the values that do)."""
    owner, _, parameter = key.rpartition(".")
    if parameter == "group_count" and configuration.is_own(owner):
        return f"{owner}.normalization", ("group",)
    return _NEEDS.get(key) or _NEEDS.get(owner) or (key, ())


def _builds_a_network(configuration: Configuration, owner: str) -> bool:
    """Whether a configurable can be `build_model.architecture`, the user's included."""
    return owner != "build_model" and {"image_size", "image_channels", "num_classes"} <= configuration.parameters(owner)
