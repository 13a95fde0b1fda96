"""One file per command; `dispatcher.py` finds and runs them."""
