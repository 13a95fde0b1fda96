"""Experiment: all settings of a run, read from gin.

    experiment, configuration, notes = read_experiment(["default.gin"], ["train.epochs=3"], user_modules=[])
    experiment.train.epochs, configuration.text

Values are checked when the settings are made, but not against a dataset or machine.
"""

import dataclasses
from collections.abc import Sequence

from flexseg.config.configure import Configuration, configure
from flexseg.config.effects import idle_bindings, refuse_supplied
from flexseg.data.augmentation import Augment
from flexseg.data.settings import InputSettings
from flexseg.errors import UserError
from flexseg.evaluation.evaluate import EvaluationSettings
from flexseg.objectives.objective import Objective
from flexseg.training.epoch_pictures import PictureSettings
from flexseg.training.optimizers import OptimizerSettings
from flexseg.training.plateau import PlateauSettings
from flexseg.training.schedules import Schedule
from flexseg.training.settings import TrainSettings

_OF_BUILD = ("flexseg.files.", "flexseg.datasets.")  # where the configurables of `flexseg build` are


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """All settings of a run."""

    train: TrainSettings
    optimizer: OptimizerSettings
    schedule: Schedule
    plateau: PlateauSettings
    objective: Objective
    inputs: InputSettings
    augment: Augment
    evaluation: EvaluationSettings
    pictures: PictureSettings

    @classmethod
    def from_gin(cls) -> "Experiment":
        """Makes the settings objects from gin's bindings."""
        return cls(
            train=TrainSettings(),
            optimizer=OptimizerSettings(),
            schedule=Schedule(),
            plateau=PlateauSettings(),
            objective=Objective(),
            inputs=InputSettings(),
            augment=Augment(),
            evaluation=EvaluationSettings(),
            pictures=PictureSettings(),
        )


def global_batch_size(settings: TrainSettings, replicas: int) -> int:
    """Examples per step over all replicas."""
    if settings.batch_size_per_replica is not None:
        return settings.batch_size_per_replica * replicas
    return settings.global_batch_size or 4


def read_experiment(
    gin_file: Sequence[str], gin_param: Sequence[str], *, user_modules: Sequence[str], recorded: bool = False
) -> tuple[Experiment, Configuration, list[str]]:
    """Parses the gin configuration and makes the settings. Call `load_tensorflow` before.

    Args:
      gin_file, gin_param, user_modules: as on the command line.
      recorded: whether the file is the `config.gin` of a run; old names are then translated.

    Returns:
      (experiment, configuration, notes on bindings without effect).

    Raises:
      UserError: an error in the configuration, or a binding of `flexseg build`.
    """
    configuration = configure(
        gin_file, gin_param, modules=("flexseg.training.experiment", "flexseg.training.assembly"), user_modules=user_modules, recorded=recorded
    )
    for key in configuration.bindings:
        if configuration.module_of(key.rpartition(".")[0]).startswith(_OF_BUILD):
            raise UserError(key, expected="bindings of training", found="one of `flexseg build`", cure="give it to `flexseg build`, not here")
    refuse_supplied(configuration)
    notes = idle_bindings(configuration)
    return Experiment.from_gin(), configuration, notes
