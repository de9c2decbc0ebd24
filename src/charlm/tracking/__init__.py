"""MLflow, beside the flow: a failure here never stops a training.

With `serving` this is the only package that uses MLflow; `repro` imports it beforehand, for the
stages. It may import report, for pictures of trainings. No stage reads from it.
"""

from charlm.results import weights_digest
from charlm.tracking.client import Client, address, connect, make_database, runs_that_made
from charlm.tracking.metrics import (
    entropy_metrics,
    evaluation_metrics,
    flow_metrics,
    point_metrics,
)
from charlm.tracking.tracker import Tracker, running

__all__ = [
    "Client",
    "Tracker",
    "address",
    "connect",
    "entropy_metrics",
    "evaluation_metrics",
    "flow_metrics",
    "make_database",
    "point_metrics",
    "running",
    "runs_that_made",
    "weights_digest",
]
