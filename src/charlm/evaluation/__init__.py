"""From weights to losses: scores, dynamic evaluation, ensembles, coding. Imports data, models."""
