"""Figures about the studio itself, for Prometheus. Figures about the study are curves, not these.

Each studio has a registry of its own, so that two in one process do not add up. Left out: figures of the process
(memory, files), which the machine's own exporter has.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Instruments:
    """Counters of one studio."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "tropism_request_seconds", "Time to answer", ["method", "route", "status"], buckets=BUCKETS,
            registry=self.registry,
        )  # fmt: skip
        self.claims = Counter("tropism_claims", "Questions given out", registry=self.registry)
        self.submits = Counter("tropism_submits", "Answers stored", ["kind"], registry=self.registry)
        self.listeners = Gauge("tropism_stream_listeners", "Open event streams", registry=self.registry)
        self.queue = Gauge("tropism_queue", "The queue: votes wanted, given, held", ["what"], registry=self.registry)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
