"""Saved models in use: playground, MLflow's model server and registry, a team's server."""
