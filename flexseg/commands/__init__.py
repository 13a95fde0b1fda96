"""The commands of `flexseg`, one file each; `dispatcher.py` finds and runs them."""
