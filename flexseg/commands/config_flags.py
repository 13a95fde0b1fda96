"""The flags that every configured command shares, and one way to read a command's flags.

A command defines its flags in a registry of its own, because a notebook imports several commands, and two of them may both
have a `--workdir` (absl's global registry would refuse the second):

    FLAGS = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "The run's directory.", flag_values=FLAGS)
    config_flags.define(FLAGS)

    def run(*, workdir, gin_file=(), gin_param=(), user_module=()):     # this is flexseg.train(...)
        configuration = configure(gin_file, gin_param, modules=(...), user_modules=user_module)

    def main(args):
        return run(**config_flags.values(FLAGS))
"""

from absl import flags


def define(registry: flags.FlagValues) -> None:
    """Adds --gin_file, --gin_param and --user_module, each repeatable, to a command's registry."""
    for name, meaning in (
        ("gin_file", "A gin file: a path, or the name of a shipped one such as default.gin. Repeatable; a later file overrides an earlier one."),
        ("gin_param", "A binding such as train.epochs=3 or \"label_map.off_map='nearest'\". Repeatable; overrides the files."),
        ("user_module", "A Python module of your own (my_models) to import, so that gin can use its models and losses. Repeatable."),
    ):
        flags.DEFINE_multi_string(name, [], meaning, flag_values=registry)


def define_source(registry: flags.FlagValues) -> None:
    """Adds the flags that say how files of a source folder belong together."""
    for name, meaning in (
        ("image_pattern", "Stem of the images, e.g. '{case}_img'; default '{case}'."),
        ("mask_pattern", "Stem of the masks, e.g. '{case}_mask'; default '{case}'."),
        ("group_pattern", "Regular expression with one group, searched in each image's stem: patient, slide, tile."),
        ("group_column", "Column of groups.csv that names the group; default 'group'."),
    ):
        flags.DEFINE_string(name, None, meaning, flag_values=registry)
    meaning = "An image of more pixels is refused before it is decoded."
    flags.DEFINE_integer("max_image_pixels", 150_000_000, meaning, flag_values=registry, lower_bound=1)


def values(registry: flags.FlagValues) -> dict[str, object]:
    """Flag name -> value, for all flags of a command, as keyword arguments of its `run`."""
    return registry.flag_values_dict()
