"""Launchers: shell scripts, and the Python that they call as `flexseg.launch`."""
