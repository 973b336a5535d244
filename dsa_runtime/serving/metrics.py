"""Metrics: what a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from .. import __version__
from ..tick import Tick
from ..world import World
from .observer import Observer

_SECONDS = (0.001, 0.002, 0.005, 0.01, 1 / 60, 0.02, 1 / 30, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
# fmt: off
_TYPES = frozenset((
    "hello", "specs", "open", "step", "reset", "restore", "rewind", "snapshot", "fork", "configure", "prompt", "close",
    "cancel", "ping", "stats",
))
# fmt: on


class Metrics(Observer):
    """Counts what a server tells it. Every server has its own; thread-safe."""

    def __init__(self, worlds: Iterable[World] = ()) -> None:
        """worlds   whose batches are counted"""
        registry = self._registry = CollectorRegistry()
        registry.register(_Batches(tuple(worlds)))
        Gauge("dsa_info", "1, with the version of the runtime", ["version"], registry=registry).labels(__version__).set(
            1
        )
        self._sessions = Gauge("dsa_sessions", "Sessions that are open", registry=registry)
        self._opened = Counter("dsa_sessions_opened", "Sessions that were opened or forked", registry=registry)
        self._closed = Counter(
            "dsa_sessions_closed", "Sessions that have ended: closed, reaped, stopped", ["reason"], registry=registry
        )
        self._refused = Counter(
            "dsa_opens_refused", "Sessions that were not opened, by code", ["code"], registry=registry
        )
        self._ticks = Counter(
            "dsa_ticks", "Ticks: ok, late, repeated, skipped. All but ok are misses", ["status"], registry=registry
        )
        self._steps = Counter("dsa_steps", "Denoising steps of the frames that were sent", registry=registry)
        self._tick_seconds = Histogram(
            "dsa_tick_seconds", "A tick in its session, from call to return", buckets=_SECONDS, registry=registry
        )
        self._requests = Counter(
            "dsa_requests", "Requests answered, by type and code", ["type", "code"], registry=registry
        )
        self._request_seconds = Histogram(
            "dsa_request_seconds",
            "A request, from its arrival to its reply",
            ["type"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._failures = Counter("dsa_failures", "Things that failed unexpectedly; the log has them", registry=registry)
        for status in ("ok", "late", "repeated", "skipped"):  # shown from the start, as 0
            self._ticks.labels(status)
        for reason in ("closed", "reaped", "stopped"):
            self._closed.labels(reason)
        for code in ("capacity", "busy", "draining"):
            self._refused.labels(code)
        ProcessCollector(registry=self._registry)

    def text(self) -> tuple[str, bytes]:
        """Content type and text of all of them, in the format that Prometheus reads."""
        return CONTENT_TYPE_LATEST, generate_latest(self._registry)

    def opened(self, sid: int, world: str) -> None:
        self._opened.inc()
        self._sessions.inc()

    def closed(self, sid: int, reason: str) -> None:
        self._closed.labels(reason).inc()
        self._sessions.dec()

    def refused(self, code: str, problem: str) -> None:
        self._refused.labels(code).inc()

    def request(self, type: str, code: str, seconds: float) -> None:
        kind = type if type in _TYPES else "other"  # a peer may send any, and each would be kept for ever
        self._requests.labels(kind, code).inc()
        self._request_seconds.labels(kind).observe(seconds)

    def tick(self, tick: Tick) -> None:
        self._ticks.labels(tick.status).inc()
        self._steps.inc(tick.steps)
        self._tick_seconds.observe(tick.latency_ms["total"] / 1000)

    def failed(self, what: str, incident: int, error: Exception) -> None:
        self._failures.inc()


class _Batches(Collector):
    """What worlds count themselves, read when somebody asks."""

    def __init__(self, worlds: tuple[World, ...]) -> None:
        self._worlds = worlds

    def collect(self) -> Iterator[CounterMetricFamily]:
        counts = [world.rounds for world in self._worlds]
        rounds, rows = (sum(values) for values in zip(*counts, strict=True)) if counts else (0, 0)
        yield CounterMetricFamily("dsa_batch_rounds", "Engine calls that made denoising steps", value=rounds)
        yield CounterMetricFamily("dsa_batch_rows", "Sessions that had a denoising step in them", value=rows)
