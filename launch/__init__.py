"""Launchers: shell scripts, and the Python modules that they call as `flexseg.launch`."""
