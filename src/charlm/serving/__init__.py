"""Saved models in use: MLflow's model server, registry and pages. May import all below it."""
