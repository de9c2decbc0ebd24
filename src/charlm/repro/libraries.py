"""Importing this imports what stages import, as far as it takes long."""

import gc
import importlib

LIBRARIES = (
    "torch",
    "safetensors.torch",
    "scipy.optimize",
    "matplotlib.figure",
    "pydantic",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "alembic.command",
)

# Imports make a million objects and no garbage: looking for it takes a fifth of the time.
gc.disable()
for name in LIBRARIES:
    importlib.import_module(name)
# In a fork, memory that is looked through for garbage is copied.
gc.freeze()
gc.enable()
