"""The commands of `flexseg`, one file each: those with a `main`. `dispatcher.py` finds and runs them; the others help."""
