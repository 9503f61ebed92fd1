"""`GET /metrics` of real replicas: every label and every number is that of what was asked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from registry.serving.follow import Live
from registry.serving.metrics import ReplicaCollector
from registry.serving.options import LiveOptions
from registry.store.objects import ObjectStore
from tests.support.batch_flavor import NO_IMAGE, Controls, TogetherEcho
from tests.support.echo_releases import Shop, load_echo, wait_until
from tests.support.pages import ROOT
from tests.support.running_app import running

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
CONTROLS = Controls()
DASHBOARD = ROOT / "docs" / "grafana" / "ulora-replica.json"
BY_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus adds to what it scrapes."""


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    shop = Shop(ObjectStore(store_url), model, tmp_path)
    shop.release("v1.0.0")
    shop.promote("v1.0.0")
    return shop


def follow(shop: Shop) -> Live:
    def load(manifest: Any, files: Any, **how: Any) -> TogetherEcho:
        return TogetherEcho(
            manifest.version, manifest.content_sha256, load_echo(manifest, files).weights, controls=CONTROLS
        )

    return Live(
        shop.channel(), shop.versions, shop.blobs, LiveOptions(find=lambda flavor: load, max_batch=4, deadline=600)
    )


@pytest.fixture
def live(shop: Shop) -> Iterator[Live]:
    with follow(shop) as live:
        yield live


@pytest.fixture
def http(live: Live) -> Iterator[httpx.Client]:
    with running(live) as client:
        yield client


def scrape(http: httpx.Client) -> Samples:
    answer = http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def post(http: httpx.Client, image: bytes, **query: str) -> httpx.Response:
    return http.post("/predict", content=image, params=query, headers={"Content-Type": "image/png"})


def test_metrics_exist_with_zeros_before_any_request(http: httpx.Client, shop: Shop) -> None:
    samples = scrape(http)
    of = {"version": "v1.0.0", "arm": "stable"}
    assert value(samples, "ulora_requests_total", **of, code="200") == 0
    assert value(samples, "ulora_request_duration_seconds_count", **of) == 0
    assert value(samples, "ulora_request_duration_seconds_bucket", **of, le="0.2") == 0
    assert value(samples, "ulora_predictions_total", **of, target="low", outcome="review") == 0
    assert value(samples, "ulora_batch_rows_count") == value(samples, "ulora_queue_duration_seconds_count") == 0
    assert value(samples, "ulora_swaps_total", result="failed") == 0
    assert value(samples, "ulora_generation") == value(samples, "ulora_ready") == 1
    assert value(samples, "ulora_resident_versions", version="v1.0.0") == 1
    assert value(samples, "process_resident_memory_bytes")
    (build,) = [dict(labels) for name, labels in samples if name == "ulora_build_info"]
    assert (build["model"], build["channel"], build["runtime"]) == (shop.model, "production", "plain")


def test_requests_and_images_are_counted_as_answered(http: httpx.Client, live: Live) -> None:
    assert [post(http, image).status_code for image in (b"a", b"b", NO_IMAGE, b"")] == [200, 200, 400, 400]
    http.get("/health")
    live.predict([b"c", b"d"])
    samples = scrape(http)
    of = {"version": "v1.0.0", "arm": "stable"}
    assert value(samples, "ulora_requests_total", **of, code="200") == 2
    assert value(samples, "ulora_requests_total", **of, code="400") == 2
    assert value(samples, "ulora_request_duration_seconds_count", **of) == 4
    assert value(samples, "ulora_predictions_total", **of, target="", outcome="answer") == 4
    assert value(samples, "ulora_predictions_total", **of, target="", outcome="corrupt_image") == 1
    assert value(samples, "ulora_batch_rows_sum") == value(samples, "ulora_queue_duration_seconds_count") == 4
    assert value(samples, "ulora_compute_duration_seconds_count") == value(samples, "ulora_batch_rows_count")


def test_no_text_of_a_client_becomes_a_label(http: httpx.Client) -> None:
    post(http, b"a", target="strange", key="user-7")
    http.post("/predict/batch", headers={"X-Ulora-Version": "v6.6.6"})
    http.get("/strange")
    names = {name for _, labels in scrape(http) for name, _ in labels}
    assert names == {
        "version", "arm", "code", "target", "outcome", "result", "le", "model", "channel", "runtime", "device",
    }  # fmt: skip
    assert not re.search("strange|user-7|v6", http.get("/metrics").text)


def test_series_go_with_the_version_that_leaves_memory(http: httpx.Client, live: Live, shop: Shop) -> None:
    post(http, b"a")
    for name in ("v1.1.0", "v1.2.0", "v1.3.0"):
        shop.release(name)
        shop.promote(name)
        live.refresh()
        assert live.wait_for(version=name, timeout=300)
        wait_until(lambda: live.health().rollback_ready)
    wait_until(lambda: "v1.0.0" not in live.health().resident)
    samples = scrape(http)
    versions = {dict(labels).get("version") for name, labels in samples if name != "ulora_build_info"}
    assert versions == {None, "", "v1.2.0", "v1.3.0"}
    assert value(samples, "ulora_swaps_total", result="ok") == value(samples, "ulora_generation") == 4


def test_a_load_that_fails_is_counted(http: httpx.Client, live: Live, shop: Shop) -> None:
    shop.release("v1.1.0")
    repair = shop.lose("v1.1.0", "adapters/low/adapter_model.safetensors")
    for path in (shop.folder / "cache").rglob("*"):
        if path.is_file():
            path.unlink()
    shop.promote("v1.1.0")
    live.refresh()
    wait_until(lambda: (value(scrape(http), "ulora_swaps_total", result="failed") or 0) >= 1)
    assert (post(http, b"a").json()["version"], value(scrape(http), "ulora_generation")) == ("v1.0.0", 1)
    repair()
    wait_until(lambda: value(scrape(http), "ulora_generation") == 2)
    assert post(http, b"a").json()["version"] == "v1.1.0"


def test_replicas_in_one_process_have_metrics_of_their_own(http: httpx.Client, shop: Shop) -> None:
    post(http, b"a")
    with follow(shop) as other, running(other) as beside:
        of = {"version": "v1.0.0", "arm": "stable", "code": "200"}
        assert value(scrape(http), "ulora_requests_total", **of) == 1
        assert value(scrape(beside), "ulora_requests_total", **of) == 0


def test_openmetrics_is_given_to_those_who_ask(http: httpx.Client) -> None:
    answer = http.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert "ulora_build" in {family.name for family in parse_openmetrics(answer.text)}


@pytest.mark.parametrize("version", ["x", "1.0.x", "9" * 5000, ""])
def test_an_unknown_version_of_a_format_is_answered(http: httpx.Client, version: str) -> None:
    for kind in ("application/openmetrics-text", "text/plain"):
        answer = http.get("/metrics", headers={"Accept": f"{kind}; version={version}"})
        assert answer.status_code == 200
        assert "ulora_generation" in answer.text


def test_a_program_registers_the_metrics_with_its_own(live: Live) -> None:
    registry = CollectorRegistry()
    registry.register(ReplicaCollector(live))
    live.predict(b"a")
    assert registry.get_sample_value("ulora_batch_rows_sum") == 1


@dataclass
class Query:
    """What a query of the dashboard names: each metric with the labels that it is matched by, and labels of `by`."""

    selected: list[tuple[str, set[str]]] = field(default_factory=list)
    grouped_by: set[str] = field(default_factory=set)

    @classmethod
    def parse(cls, text: str) -> Query:
        query = cls()
        promql_parser.walk(
            promql_parser.parse(text.replace("$__rate_interval", "1m").replace("$__interval", "1m")), query.visit
        )
        return query

    def visit(self, part: Any) -> None:
        if isinstance(part, promql_parser.VectorSelector):
            self.selected.append((part.name, {matcher.name for matcher in part.matchers.matchers}))
        elif isinstance(part, promql_parser.AggregateExpr) and part.modifier:
            self.grouped_by |= set(part.modifier.labels)


def queries() -> list[str]:
    """All queries of the dashboard: of its panels, its variables and its annotations."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    found += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    variables = [variable["definition"] for variable in dashboard["templating"]["list"] if "definition" in variable]
    return found + [re.sub(r"label_values\((.*), (\w+)\)", r"group by (\2) (\1)", variable) for variable in variables]


def test_the_dashboard_asks_for_what_a_replica_has(http: httpx.Client) -> None:
    assert len(queries()) > 20
    samples = scrape(http)
    for text in queries():
        query = Query.parse(text)
        assert query.selected, text
        known = set(BY_PROMETHEUS)
        for name, labels in query.selected:
            of_metric = {label for metric, found in samples if metric == name for label, _ in found} | BY_PROMETHEUS
            assert any(metric == name for metric, _ in samples), f"{text}: a replica has no {name}"
            assert labels <= of_metric, text
            known |= of_metric
        assert query.grouped_by <= known, text


def test_the_dashboard_shows_every_metric_of_a_replica(http: httpx.Client) -> None:
    shown = {name for text in queries() for name, _ in Query.parse(text).selected}
    families = {re.sub("_(total|bucket|sum|count)$", "", name) for name in shown}
    exported = {family.name for family in parse(http.get("/metrics").text) if family.name.startswith("ulora_")}
    assert exported - families - {"ulora_rollback_ready"} == set()
