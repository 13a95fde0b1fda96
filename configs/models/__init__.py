"""Published settings of each architecture."""
