"""An abstract build of a network: it has shapes, and no weights are drawn, neither then nor later.

Usage:
    with abstract_build():
        model = build_model(...)            # model.count_params(), model.get_layer(...).output.shape
"""

import contextlib
from collections.abc import Iterator

import keras
from keras.src.backend.common import global_state

_PENDING = "uninitialized_variables"


@contextlib.contextmanager
def abstract_build() -> Iterator[None]:
    """Abstract build: no weights are drawn for the models made inside."""
    pending = list(global_state.get_global_attribute(_PENDING) or ())
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        # Keras lists what it did not draw, and the end of any later StatelessScope would draw it, which is as much memory and time again; no public
        # name reaches the list (keras/src/backend/common/variables.py, initialize_all_variables).
        global_state.set_global_attribute(_PENDING, pending)
