"""Saved models in use: playground, MLflow's model server and registry. May import all below it."""
