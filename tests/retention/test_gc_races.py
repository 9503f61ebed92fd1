"""A garbage collection beside those who need what it is about to delete: every order of their calls.

One is run as a whole just before each call of the other, in turn. Whatever the order: a version whose name is bound is
whole when both are done, and stays so; one that was refused is whole when it is created again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from registry.api import Registry
from registry.breakglass.write_script import StoreLocation, rollback_script
from registry.errors import NotNow, UloraError, VersionForgotten
from registry.names import VersionName
from registry.retention.forget import RetentionRule
from registry.retention.prune import Prune
from registry.retention.references import References
from tests.servers.proxy import Exchange, Proxy
from tests.support.registries import bind
from tests.support.store_with_clock import Calendar, has, manifest_of, open_calendar, release

pytestmark = pytest.mark.acceptance

NAME, FILE = "v1.0.0", b"both want it"
CONTESTED = re.compile(r"gc\.json|/forgotten/|/channels/|folders models/|[^g]..\S* (blobs/|\S*/versions/)")
"""Calls that one side makes on what the other may write; a read of a name or a manifest is of what never changes."""
PROMOTED = re.compile(r"/forgotten/|/channels/")
"""The same beside a promotion, which creates no file and no name."""
REMEMBERED = re.compile(r"gc\.json|/forgotten/|(head|delete) blobs/")
"""The same beside one who remembers, who writes marks and notes."""
Act = Callable[[Registry], object]


class Killed(BaseException):
    """The process ends here."""


def die() -> None:
    raise Killed


def create(registry: Registry) -> None:
    release(registry, NAME, FILE)


def create_and_die_when_bound(registry: Registry) -> None:
    with suppress(Killed):
        release(registry, NAME, FILE, then=die)


def prune(registry: Registry) -> None:
    Prune(registry.store, References(registry.store, registry.blobs), "gc").run()


def prune_twice(registry: Registry) -> None:
    """Both passes, as if a creator took longer than the grace between two of its calls."""
    for _ in range(2):
        prune(registry)
        calendar_of(registry).days += 2


def forget(registry: Registry) -> None:
    registry.collect_garbage(RetentionRule(keep=1))


def calendar_of(registry: Registry) -> Calendar:
    assert isinstance(registry.store, Calendar)
    return registry.store


@pytest.fixture
def stages(store_url: str, model: str, tmp_path: Path) -> Iterator[Registry]:
    """Fresh stores without end."""
    return (open_calendar(tmp_path / f"{n}", f"{store_url}/{n}", model)[0] for n in range(1000))


def garbage(registry: Registry) -> None:
    """The file is in the store, and nobody needs it yet."""
    registry.blobs.put(FILE)
    calendar_of(registry).days = 31


def marked(registry: Registry) -> None:
    """The same, and it is to be deleted by the next pass."""
    garbage(registry)
    prune(registry)
    calendar_of(registry).days += 2


def every_order(
    stages: Iterator[Registry], begin: Act, outer: Act, inner: Act, contested: re.Pattern[str] = CONTESTED
) -> Iterator[tuple[Registry, bool]]:
    """`inner` at each call of `outer`; yields the store then, and whether one of the two was refused."""
    for number in contested_steps(next(stages), begin, outer, contested):
        registry, refused = next(stages), []

        def act(registry: Registry = registry, refused: list[UloraError] = refused) -> None:
            try:
                inner(registry)
            except (NotNow, VersionForgotten) as error:
                refused.append(error)

        begin(registry)
        calendar_of(registry).at_step(number, act)
        try:
            outer(registry)
        except (NotNow, VersionForgotten) as error:
            refused.append(error)
        yield registry, bool(refused)


def contested_steps(trial: Registry, begin: Act, act: Act, contested: re.Pattern[str] = CONTESTED) -> list[int]:
    """The numbers of an act's calls. Those on what the other never writes commute with all that it does: left out."""
    begin(trial)
    first = len(calendar_of(trial).steps)
    act(trial)
    steps = calendar_of(trial).steps[first:]
    return [number for number, step in enumerate(steps) if contested.search(step)]


def check_whole_if_bound(registry: Registry) -> bool:
    bound = registry.bindings.find(VersionName.parse(NAME)) is not None
    for _ in range(2):
        assert has(registry, FILE) or not bound
        calendar_of(registry).days += 2
        prune(registry)
    assert has(registry, FILE) == bound
    return bound


@pytest.mark.parametrize(
    ("begin", "outer", "inner"), [(marked, prune, create), (marked, create, prune), (garbage, create, prune_twice)]
)
def test_a_version_created_beside_a_sweep_is_whole(
    stages: Iterator[Registry], begin: Act, outer: Act, inner: Act
) -> None:
    refusals = []
    for registry, refused in every_order(stages, begin, outer, inner):
        refusals.append(refused)
        if refused:
            with suppress(NotNow):
                prune(registry)
            create(registry)
        assert check_whole_if_bound(registry)
    assert len(refusals) >= 4
    assert not all(refusals)


def test_a_creator_killed_after_binding_leaves_a_whole_version(stages: Iterator[Registry]) -> None:
    assert any([check_whole_if_bound(one) for one, _ in every_order(stages, marked, prune, create_and_die_when_bound)])


def test_a_creator_killed_at_any_call_leaves_no_part_version(stages: Iterator[Registry]) -> None:
    outcomes = []
    for number in contested_steps(next(stages), marked, create):
        registry = next(stages)
        marked(registry)
        calendar_of(registry).at_step(number, die)
        with pytest.raises(Killed):
            create(registry)
        outcomes.append(check_whole_if_bound(registry))
        create(registry)
        assert check_whole_if_bound(registry)
    assert set(outcomes) == {True, False}


def bind_by_hand(registry: Registry) -> None:
    manifest = manifest_of(registry.model, NAME, FILE)
    registry.bindings.bind(manifest, registry.blobs.put(manifest.to_bytes()))


@pytest.mark.parametrize("later", range(7))
def test_a_name_bound_amid_a_sweep_is_a_whole_version(stages: Iterator[Registry], later: int) -> None:
    # It has made its last check just before the sweep's claim, and binds the name `later` calls after that.
    registry = next(stages)

    def last_check() -> None:
        calendar_of(registry).before("create", die, containing="/versions/")
        with pytest.raises(Killed):
            create(registry)
        calendar_of(registry).at_step(later, lambda: bind_by_hand(registry))

    marked(registry)
    calendar_of(registry).before("swap", last_check)
    prune(registry)
    assert check_whole_if_bound(registry)


def test_what_is_bound_before_the_claim_is_spared(stages: Iterator[Registry]) -> None:
    registry = next(stages)
    marked(registry)
    calendar_of(registry).before("swap", lambda: bind_by_hand(registry))
    prune(registry)
    assert check_whole_if_bound(registry)


def old_version(registry: Registry) -> None:
    registry.wiring._is_checked = True  # the store needs no check here, which saves a dozen calls
    release(registry, NAME, FILE)
    bind(registry, "v2.0.0")
    calendar_of(registry).days = 31


def promote(registry: Registry) -> None:
    registry.promote(NAME, "staging")


@pytest.mark.parametrize(("outer", "inner"), [(forget, promote), (promote, forget)])
def test_a_version_promoted_while_forgotten_keeps_its_files(stages: Iterator[Registry], outer: Act, inner: Act) -> None:
    refusals = []
    for registry, refused in every_order(stages, old_version, outer, inner, PROMOTED):
        refusals.append(refused)
        for _ in range(2):
            calendar_of(registry).days += 2
            prune(registry)
        head = registry.channel("staging").head()
        assert (head is None) == refused
        assert has(registry, FILE) == (head is not None)
    assert set(refusals) == {True, False}


def forgotten_version(registry: Registry) -> None:
    old_version(registry)
    forget(registry)
    calendar_of(registry).days += 2


@pytest.mark.parametrize(
    ("outer", "inner"), [(prune, lambda one: one.remember(NAME)), (lambda one: one.remember(NAME), prune)]
)
def test_remembered_during_a_sweep_is_whole_or_still_forgotten(
    stages: Iterator[Registry], outer: Act, inner: Act
) -> None:
    outcomes = set()
    for registry, _ in every_order(stages, forgotten_version, outer, inner, REMEMBERED):
        is_forgotten = registry.wiring.forgotten.find(NAME) is not None
        assert has(registry, FILE) or is_forgotten
        outcomes.add(is_forgotten)
    assert outcomes == {True, False}


def test_a_sweep_that_slept_past_its_lease_deletes_nothing(
    stages: Iterator[Registry],
) -> None:
    registry = next(stages)
    forgotten_version(registry)

    def sleep() -> None:
        calendar_of(registry).days += 1 / 24
        assert registry.remember(NAME)

    calendar_of(registry).before("head", sleep, containing="blobs/")
    with pytest.raises(NotNow, match="deleted by this one: nothing"):
        prune(registry)
    assert has(registry, FILE)


# --- a rollback script -----------------------------------------------------------------------------------------------


def served_before(registry: Registry) -> None:
    """Production serves v2.0.0, and nothing needs the version that a script is for."""
    old_version(registry)
    registry.promote("v2.0.0", "production")


Script = Callable[..., int]


@pytest.fixture
def script() -> Script:
    """Forces production to the version, and pins nothing; gives its exit status."""
    scope: dict[str, Any] = {"__name__": "a_script"}

    def run(registry: Registry, *words: str) -> int:
        made = rollback_script(registry.manifest(NAME), "production", StoreLocation(registry.settings.store))
        if "main" not in scope:
            exec(compile(made.text, made.name, "exec"), scope)
            scope["Store"] = cache(scope["Store"])  # its connections take long to make
        scope["STORE"]["prefix"] = registry.settings.store.split("/", 3)[3]
        return int(scope["main"](["--force", "--reason", "now", *words]))

    return run


def serves(registry: Registry) -> str:
    head = registry.channel("production").head()
    assert head
    assert head.stable
    return head.stable.version


def test_a_version_a_script_makes_live_keeps_its_files(stages: Iterator[Registry], script: Script) -> None:
    codes: list[int] = []
    orders = every_order(
        stages, served_before, forget, lambda one: codes.append(script(one, "--yes", "--json")),
        re.compile(r"create \S*/forgotten/|list \S*/pins/|swap gc"),
    )  # fmt: skip
    for registry, _ in orders:
        for _ in range(2):
            calendar_of(registry).days += 2
            prune(registry)
        assert serves(registry) == ("v2.0.0" if codes[-1] else NAME)
        assert has(registry, FILE) == (codes[-1] == 0)
    assert set(codes) == {0, 5}


class Hesitant(StringIO):
    """A person at a terminal who does something else before saying yes."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.act = act

    def isatty(self) -> bool:
        return True

    def readline(self, size: int = -1, /) -> str:
        self.act()
        return "y\n"


def collect_all(registry: Registry) -> None:
    forget(registry)
    calendar_of(registry).days += 2
    prune(registry)


def test_a_script_looks_again_when_a_person_has_thought_for_days(
    stages: Iterator[Registry], script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = next(stages)
    served_before(registry)
    monkeypatch.setattr(sys, "stdin", Hesitant(lambda: collect_all(registry)))
    assert script(registry) == 5
    assert "ulora store remember v1.0.0" in capsys.readouterr().err
    assert serves(registry) == "v2.0.0"


def test_a_script_reports_files_deleted_before_its_record(
    stages: Iterator[Registry],
    script: Script,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def collect_first(exchange: Exchange) -> None:
        collect_all(registry)
        exchange.send(exchange.forward())

    registry = next(stages)
    served_before(registry)
    monkeypatch.setenv("ULORA_S3_ENDPOINT", proxy.url)
    proxy.next(collect_first, method="PUT", containing="/channels/")
    assert script(registry, "--yes") == 6
    assert "serves v1.0.0 now, but files were deleted meanwhile: config/0 (missing)" in capsys.readouterr().err
    assert serves(registry) == NAME
