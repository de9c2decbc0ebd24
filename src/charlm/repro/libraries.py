"""Importing this imports what stages import, as far as it takes long."""

import contextlib
import gc
import importlib

LIBRARIES = (
    "torch",
    "safetensors.torch",
    "scipy.optimize",
    "matplotlib.figure",
    "pydantic",
    # It sets what MLflow reads as it is imported. A stage forgets it, and imports its own.
    "charlm.tracking",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "alembic.command",
)

# Imports make a million objects and no garbage: looking for it takes a fifth of the time.
gc.disable()
for name in LIBRARIES:
    # What cannot be imported is the matter of the stage that needs it.
    with contextlib.suppress(Exception):
        importlib.import_module(name)
# In a fork, memory that is looked through for garbage is copied.
gc.freeze()
gc.enable()
