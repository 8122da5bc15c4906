"""Prometheus metrics: HTTP requests as they pass, queue and workers as the database has them when asked."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from service.store import jobs, workers
from service.store.session import Store
from service.store.states import JobState

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter that nobody asked for
LATENCY_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """All metrics of one application; each application has its own registry."""

    def __init__(self, store: Store, *, worker_timeout_seconds: float) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "limbeck_http_requests_total",
            "HTTP requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.latency = Histogram(
            "limbeck_http_request_duration_seconds",
            "Time to answer an HTTP request; event streams are left out.",
            ["method", "route"],
            buckets=LATENCY_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self.streams = Gauge("limbeck_event_streams", "Open event streams.", registry=self.registry)
        self.registry.register(_StoreCollector(store, worker_timeout_seconds))

    def exposition(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self.registry)


class _StoreCollector:
    """What the database says, read anew at each scrape."""

    def __init__(self, store: Store, worker_timeout_seconds: float) -> None:
        self._store = store
        self._worker_timeout_seconds = worker_timeout_seconds

    def describe(self) -> list[Metric]:
        return []  # otherwise registering would read the database

    def collect(self) -> Iterator[Metric]:
        with self._store.session() as session:
            by_state = jobs.count_by_state(session)
            queued_age = jobs.oldest_queued_seconds(session)
            live = workers.live(session, max_age_seconds=self._worker_timeout_seconds)
        states = GaugeMetricFamily("limbeck_jobs", "Jobs by state.", labels=["state"])
        for state in JobState:
            states.add_metric([state.value], by_state.get(state, 0))
        yield states
        yield GaugeMetricFamily(
            "limbeck_oldest_queued_job_age_seconds",
            "How long the oldest queued job has been waiting; 0 when none is.",
            value=queued_age or 0.0,
        )
        yield GaugeMetricFamily("limbeck_workers", "Live workers.", value=len(live))
