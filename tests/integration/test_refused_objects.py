"""Commands that look at everything tell everything that may be read, and name what S3 refuses (403)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from registry.api import Registry
from registry.channels.channel import PromoteOptions
from registry.doctor.channels import check_channel
from registry.errors import StoreDenied, StoreUnreachable
from registry.names import VersionName
from registry.store import layout
from registry.usecases.pages import RECENT, Pages
from registry.usecases.status import readable_history
from tests.servers.proxy import Exchange, Fault, Proxy, Reply, answering
from tests.support.registries import bind, create, file_of, flip_a_byte, open_registry
from tests.support.run_ulora import complains, ulora

pytestmark = pytest.mark.acceptance

V1, V2 = "v1.0.0", "v2.0.0"
WEIGHTS, CONFIG = "adapters/low/adapter_model.safetensors", "config/preprocessing.json"
OTHER = "adapters/low/head.safetensors"
REASON = "the field needs it"


@pytest.fixture
def registry(store_url: str, model: str, tmp_path: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Three generations in production, the third by force; commands go through the proxy."""
    registry = open_registry(tmp_path, store_url, model)
    registry.store.initialise()
    create(registry, V1, tmp_path)
    bind(registry, V2)
    registry.promote(V1, "production")
    registry.promote(V2, "production")
    registry.promote(V1, "production", PromoteOptions(force=True), reason=REASON)
    for name, value in {"MODEL": model, "POLICY": registry.settings.policy, "CACHE": tmp_path / "far"}.items():
        monkeypatch.setenv(f"ULORA_{name}", str(value))
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    return registry


def refuse(proxy: Proxy, *keys: str) -> None:
    for key in keys:
        for method in ("GET", "HEAD"):
            proxy.next(answering(403, "AccessDenied"), method=method, containing=key, times=1000)


def record(registry: Registry, generation: int) -> str:
    return layout.record(registry.model, "production", generation)


def blob(registry: Registry, path: str) -> str:
    return layout.blob(file_of(registry, V1, path).sha256)


def put(registry: Registry, key: str) -> str:
    client = registry.store._client
    client.unretried.put_object(**client.at(key), Body=b"{}")
    return key


def refused_everywhere(registry: Registry, proxy: Proxy) -> list[str]:
    """A file of v1.0.0, the name of v2.0.0, a record, a policy, a backbone."""
    policy = next(info.key for info in registry.store.list(layout.policy(registry.model, "x").rpartition("/")[0]))
    backbone = put(registry, layout.backbone("a" * 64))
    keys = [blob(registry, CONFIG), layout.version(registry.model, V2), record(registry, 2), policy, backbone]
    refuse(proxy, *keys)
    return keys


def test_verify_all_names_what_it_may_not_read(registry: Registry, proxy: Proxy) -> None:
    _, _, _, policy, backbone = refused_everywhere(registry, proxy)
    done = ulora("verify", "--all")
    complains(done, 7, "may not be read", "nothing else is bad")
    assert "BAD" not in done.out
    for line in (
        f"??? {V1}: ",
        f"    {CONFIG}: may not be read",
        f"??? {V2}: ",
        "    binding: may not be read",
        "??? production: the chain can't be checked",
        "generation 2 of production may not be read",
        "ok  staging: ",
        f"    {policy}: may not be read",
        f"??? {backbone}: ",
        "??? garbage collection can't tell what is needed: may not be read",
    ):
        assert line in done.out


def test_verify_all_as_json_has_the_same(registry: Registry, proxy: Proxy) -> None:
    _, _, _, policy, backbone = refused_everywhere(registry, proxy)
    done = ulora("verify", "--all", "--read-data", "--json")
    assert (done.code, done.error["error"]) == (7, "StoreDenied")
    found = done.document
    assert [(bad["path"], bad["refused"]) for each in found["versions"] for bad in each["bad"]] == [
        (CONFIG, True),
        ("binding", True),
    ]
    assert [(each["version"], each["bad"][0]["refused"]) for each in found["backbones"]] == [(backbone, True)]
    assert (found["chains"]["production"]["problem"], len(found["chains"]["production"]["refused"])) == ("", 1)
    assert (found["documents"]["bad"], list(found["documents"]["refused"])) == ({}, [policy])
    assert {f"{V1} {CONFIG}", f"{V2} binding", policy, f"{backbone} note"} < set(found["refused"])


def test_what_is_broken_counts_more_than_what_is_refused(registry: Registry, proxy: Proxy) -> None:
    flip_a_byte(registry, V1, WEIGHTS)
    refused_everywhere(registry, proxy)
    done = ulora("verify", "--all")
    complains(done, 6, f"1 bad: {V1} {WEIGHTS} (corrupt)")
    assert f"    {CONFIG}: may not be read" in done.out


def test_a_refused_manifest_is_the_only_one_missing(registry: Registry, proxy: Proxy) -> None:
    refuse(proxy, layout.blob(registry.bindings.get(VersionName.parse(V2)).manifest_sha256))
    done = ulora("verify", V2, V1)
    complains(done, 7, f"{V2} version.json")
    assert f"ok  {V1}: " in done.out


def test_history_shows_the_records_around_a_refused_one(registry: Registry, proxy: Proxy) -> None:
    refuse(proxy, record(registry, 2))
    done = ulora("history")
    complains(done, 7, "(generation 2)", "the chain can't be checked over")
    (_, third, second, first, of) = done.out.splitlines()
    assert of == f"production of {registry.model}"
    assert (third.split()[0], REASON in third, second.split()[:5], first.split()[0]) == (
        "3", True, ["2", "may", "not", "be", "read"], "1",
    )  # fmt: skip
    found = ulora("history", "--json")
    assert (found.code, found.error["error"]) == (7, "StoreDenied")
    assert [(each["generation"], bool(each["unread"])) for each in found.document] == [
        (3, False),
        (2, True),
        (1, False),
    ]


def test_a_chain_is_still_checked_beside_a_refused_record(registry: Registry, proxy: Proxy) -> None:
    registry.promote(V2, "production")
    registry.store.delete(record(registry, 2))
    refuse(proxy, record(registry, 4))
    complains(ulora("history"), 6, "generation 3 of production follows generation 1")
    complains(ulora("verify", "--all"), 6, "generation 3 of production follows generation 1")


def test_a_refused_record_is_no_gap_in_the_generations(registry: Registry, proxy: Proxy) -> None:
    registry.store.delete(record(registry, 1))
    refuse(proxy, record(registry, 2))
    complains(ulora("history"), 6, "begins at generation 2 instead of 1")


def test_history_says_of_which_change_the_verdict_is_refused(registry: Registry, proxy: Proxy) -> None:
    verdict = registry.history()[0].verdict
    assert verdict
    refuse(proxy, layout.verdict(registry.model, verdict))
    done = ulora("history")
    complains(done, 7, "whether a change was forced is not known of 1")
    assert "its verdict may not be read" in done.out
    assert len(done.out.splitlines()) == 5, "a header, three records, and whose history it is"


def test_show_tells_what_it_may_read_of_a_version(registry: Registry, proxy: Proxy) -> None:
    evidence = [put(registry, layout.evidence(registry.model, V1, letter * 64)) for letter in "ab"]
    verdict = registry.history()[0].verdict
    assert verdict
    refuse(proxy, evidence[0], layout.verdict(registry.model, verdict), record(registry, 1))
    done = ulora("show", V1)
    assert (done.code, done.err) == (0, "")
    assert "production: stable" in done.out
    assert WEIGHTS in done.out
    for said in (evidence[0], "generation 3 of production: its verdict", "generation 1 of production"):
        assert said in done.out
    refuse(proxy, evidence[1])
    found = ulora("show", V1, "--json")
    assert (found.code, found.document["tested"], len(found.document["unread"])) == (0, False, 3)
    assert "all evidence" in found.document["unread"][0]


def test_show_of_a_version_that_is_refused_itself_fails(registry: Registry, proxy: Proxy) -> None:
    refuse(proxy, layout.version(registry.model, V1))
    complains(ulora("show", V1), 7, V1)


def test_no_page_is_made_that_would_say_less(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    far = open_registry(tmp_path / "far", registry.settings.store, registry.model, endpoint_url=proxy.url)
    bound = registry.bindings.get(VersionName.parse(V1))
    evidence = [put(registry, layout.evidence(registry.model, V1, letter * 64)) for letter in "ab"]
    assert Pages.read(far.wiring, RECENT).page(bound).standings
    refuse(proxy, evidence[0])
    with pytest.raises(StoreDenied, match="stays as it is"):
        Pages.read(far.wiring, RECENT).page(bound)
    proxy.clear()
    refuse(proxy, record(registry, 2))
    with pytest.raises(StoreDenied, match="generation 2 of production may not be read"):
        Pages.read(far.wiring, RECENT).page(bound)


def test_a_backbone_that_is_refused_hides_no_other(registry: Registry, proxy: Proxy) -> None:
    refuse(proxy, put(registry, layout.backbone("a" * 64)))
    complains(ulora("backbone", "list"), 7, "1 may not be read")


# --- listed, and not there -------------------------------------------------------------------------------------------


def lose(proxy: Proxy, *keys: str) -> None:
    """Objects that are listed, but not given: a listing is out of date, or a cache is."""
    for key in keys:
        proxy.next(answering(404, "NoSuchKey"), method="GET", containing=key, times=1000)


def test_a_version_that_is_only_listed_hides_no_other(registry: Registry, proxy: Proxy) -> None:
    lose(proxy, layout.version(registry.model, V2))
    found = ulora("list", "--json")
    assert (found.code, [each["version"] for each in found.document]) == (0, [V1, V2])
    assert [("is listed, but" in each["problem"]) for each in found.document] == [False, True]
    shown = ulora("show", V2)
    complains(shown, 7, f"versions/{V2}.json is listed, but the store says that it is not there")
    assert "did you mean" not in shown.err
    verified = ulora("verify", "--all")
    complains(verified, 7, "may not be read", "nothing else is bad")
    assert f"ok  {V1}: " in verified.out


def test_show_tells_the_rest_of_what_is_only_listed(registry: Registry, proxy: Proxy) -> None:
    evidence = [put(registry, layout.evidence(registry.model, V1, letter * 64)) for letter in "ab"]
    lose(proxy, evidence[0], record(registry, 1))
    done = ulora("show", V1)
    assert (done.code, done.err) == (0, "")
    assert "production: stable" in done.out
    assert f"may not be read: {evidence[0]}" in done.out
    assert "generation 1 of production may not be read" in done.out
    assert ulora("diff", V1, V2).code == 0
    complains(ulora("history"), 7, "(generation 1)")


def test_versions_are_listed_without_the_newest_record(registry: Registry, proxy: Proxy) -> None:
    lose(proxy, record(registry, 3))
    done = ulora("list")
    assert (done.code, V1 in done.out, V2 in done.out) == (0, True, True)
    assert "what production serves is left out: " in done.err
    assert ulora("show", V1).code == 0
    complains(ulora("status"), 7, "is listed, but")


def test_garbage_waits_for_a_version_that_is_only_listed(registry: Registry, proxy: Proxy) -> None:
    """And nobody is told to delete what may be a version."""
    lose(proxy, layout.version(registry.model, V2))
    done = ulora("store", "gc", "--dry-run")
    complains(done, 7, f"versions/{V2}.json is listed, but")
    assert "delete" not in done.err


def test_a_backbone_that_is_only_listed_is_not_called_damaged(registry: Registry, proxy: Proxy) -> None:
    lose(proxy, put(registry, layout.backbone("a" * 64)))
    complains(ulora("store", "gc", "--dry-run"), 7, "is listed, but")
    complains(ulora("backbone", "list"), 7, "1 may not be read")


def test_garbage_waits_for_a_pin_that_is_only_listed(registry: Registry, proxy: Proxy) -> None:
    pin = put(registry, layout.pin(registry.model, V2))
    lose(proxy, pin)
    complains(ulora("store", "gc", "--dry-run"), 7, f"{pin} is listed, but")


def test_verify_names_a_document_that_is_only_listed(registry: Registry, proxy: Proxy) -> None:
    policy = next(info.key for info in registry.store.list(layout.policy(registry.model, "x").rpartition("/")[0]))
    lose(proxy, policy)
    complains(ulora("verify", "--all"), 7, policy)


# --- commands that ended at a refused object -------------------------------------------------------------------------


def test_status_of_a_refused_record_is_about_rights(registry: Registry, proxy: Proxy) -> None:
    refuse(proxy, record(registry, 3))
    done = ulora("status", "--json")
    assert (done.code, done.error["error"]) == (7, "StoreDenied")
    assert [each["refused"] for each in done.document["channels"]] == [False, True]
    put(registry, layout.record(registry.model, "staging", 1))
    complains(ulora("status"), 6, "staging: ")


def test_the_doctor_looks_on_after_a_refused_record(registry: Registry, proxy: Proxy) -> None:
    far = open_registry(registry.settings.cache, registry.settings.store, registry.model, endpoint_url=proxy.url)
    refuse(proxy, record(registry, 2))
    found = [(each.subject, each.level, each.detail) for each in check_channel("production")(far)]
    assert [subject for subject, _, _ in found] == ["production stable", "production rollback target", "production"]
    assert "generation 2 of production may not be read" in found[-1][2]
    refuse(proxy, record(registry, 3))
    assert [each.detail.partition(":")[0] for each in check_channel("production")(far)] == [
        "generation 3 of production may not be read",
        "generation 2 of production may not be read",
    ]


def test_a_corrupt_blob_that_may_not_be_read_ends_no_repair(registry: Registry, proxy: Proxy, tmp_path: Path) -> None:
    registry.store.overwrite(blob(registry, WEIGHTS), b"short")  # a HEAD tells so
    flip_a_byte(registry, V1, OTHER)
    proxy.next(answering(403, "AccessDenied"), method="GET", containing=blob(registry, WEIGHTS), times=1000)
    done = ulora("verify", V1, "--repair", tmp_path)
    complains(done, 6, WEIGHTS)
    assert f"{WEIGHTS} may not be read, and is not repaired" in done.out
    assert f"{OTHER} was corrupt, is good now" in done.out


def test_a_document_whose_bytes_are_refused_is_named(registry: Registry, proxy: Proxy) -> None:
    document = "adapters/low/adapter_config.json"
    proxy.next(answering(403, "AccessDenied"), method="GET", containing=blob(registry, document), times=1000)
    done = ulora("verify", V1)
    complains(done, 7, f"{V1} {document}")
    assert f"    {document}: may not be read" in done.out


def fail(proxy: Proxy, *keys: str) -> None:
    """The store answers 500 for some objects, and for others as ever."""
    for key in keys:
        proxy.next(answering(500, "InternalError"), containing=key, times=1000)


def test_one_object_that_the_store_fails_for_hides_no_other(registry: Registry, proxy: Proxy) -> None:
    heartbeat = put(registry, layout.replica(registry.model, "production", "host-1"))
    fail(proxy, layout.version(registry.model, V2), record(registry, 2), heartbeat)
    listed = ulora("list", "--json")
    assert [bool(each["problem"]) for each in listed.document] == [False, True]
    shown = ulora("status", "--json")
    (production,) = [each for each in shown.document["channels"] if each["channel"] == "production"]
    assert (production["stable"], [each["state"] for each in production["replicas"]]) == (V1, ["unreadable"])
    told = ulora("history", "--channel", "production")
    complains(told, 7, "may not be read")
    assert REASON in told.out
    done = ulora("verify", "--all")
    complains(done, 7, "may not be read", "nothing else is bad")
    lines = (f"ok  {V1}: ", f"??? {V2}: ", f"    {heartbeat}: may not be read", "500 InternalError", "others it gives")
    assert all(line in done.out for line in lines)


def test_a_blob_that_the_store_fails_for_hides_no_other(registry: Registry, proxy: Proxy) -> None:
    proxy.next(answering(500, "InternalError"), method="GET", containing=blob(registry, WEIGHTS), times=1000)
    flip_a_byte(registry, V1, OTHER)
    done = ulora("verify", V1, "--read-data")
    complains(done, 6, OTHER)
    assert f"    {WEIGHTS}: may not be read" in done.out


def test_a_store_that_fails_for_one_blob_is_no_evidence(registry: Registry, proxy: Proxy) -> None:
    """`ulora test` keeps what is known of a version, and nothing is."""
    proxy.next(answering(500), method="HEAD", containing=blob(registry, WEIGHTS), times=1000)
    done = ulora("test", V1)
    assert (done.code, list(registry.wiring.ledger.benchmarks(VersionName.parse(V1)))) == (7, []), done


def test_a_store_that_fails_for_everything_ends_a_command(registry: Registry, proxy: Proxy) -> None:
    proxy.next(answering(500, "InternalError"), method="GET", containing=f"/{registry.model}/", times=1000)
    proxy.next(answering(500, "InternalError"), method="GET", containing="format.json", times=1000)
    done = ulora("list")
    complains(done, 7, "500 InternalError")
    assert done.out == ""
    assert len(proxy.requests) < 60, "each object is not asked for again and again"


def modified(said: str | None) -> Fault:
    """The server's answer, with another time of its last change, or with none."""

    def answer(exchange: Exchange) -> None:
        reply = exchange.forward()
        headers = [(name, value) for name, value in reply.headers if name.lower() != "last-modified"]
        exchange.send(Reply(reply.status, headers + ([("Last-Modified", said)] if said else []), reply.body))

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        answering(418, "Teapot"),
        modified(None),
        modified("yesterday"),
    ],
)
def test_an_odd_answer_for_one_record_is_its_own_trouble(registry: Registry, proxy: Proxy, answer: Fault) -> None:
    proxy.next(answer, method="GET", containing=record(registry, 2), times=1000)
    through = Registry(settings=replace(registry.settings, endpoint_url=proxy.url))
    (refused,) = readable_history(through.wiring, "production", None).refused
    assert refused.generation == 2
    with pytest.raises(StoreUnreachable):
        through.store.get(record(registry, 2))
