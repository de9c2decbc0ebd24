"""The schema of params.yaml, checked whole before any work. Imports charlm.errors alone."""
