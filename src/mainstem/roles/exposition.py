"""Metrics of several processes as one page, each series with the label `process`."""

from collections.abc import Iterable, Mapping

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mainstem.telemetry.metrics import REGISTRY


class Family(msgspec.Struct, array_like=True):
    """One metric with its samples, as it travels between processes."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, dict[str, str], float]]


def families(registry: CollectorRegistry = REGISTRY) -> list[Family]:
    """Return what this process has counted."""
    return [
        Family(
            name=metric.name,
            kind=metric.type,
            help=metric.documentation,
            samples=[(sample.name, dict(sample.labels), sample.value) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


class _Merged(Collector):
    def __init__(self, by_process: Mapping[str, Iterable[Family]]) -> None:
        self._by_process = by_process

    def collect(self) -> Iterable[Metric]:
        merged: dict[str, Metric] = {}
        for process, group in self._by_process.items():
            for family in group:
                metric = merged.setdefault(family.name, Metric(family.name, family.help, family.kind))
                for name, labels, value in family.samples:
                    metric.add_sample(name, {**labels, "process": process}, value)
        return merged.values()


def exposition(by_process: Mapping[str, Iterable[Family]]) -> bytes:
    """Return the Prometheus text page."""
    registry = CollectorRegistry()
    registry.register(_Merged(by_process))
    return generate_latest(registry)
