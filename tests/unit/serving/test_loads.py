"""Loads that are waited for and can be left behind."""

from __future__ import annotations

import threading

import pytest

from registry.errors import LoadFailed, ReplicaClosed
from registry.serving.loads import MAX_LOADS, WaitingLoads
from registry.serving.steps import Steps
from registry.versions.pointer import Pointer
from tests.support.echo_releases import wait_until

POINTER = Pointer(version="v1.0.0", manifest_sha256="1" * 64)


def go_on() -> None:
    pass


def give_up() -> None:
    raise ReplicaClosed("not wanted")


def test_what_a_load_returns_and_raises_arrives() -> None:
    loads = WaitingLoads()
    assert loads.wait_for(POINTER, lambda pointer, steps: pointer.version, go_on) == "v1.0.0"
    with pytest.raises(ZeroDivisionError):
        loads.wait_for(POINTER, lambda pointer, steps: 1 // 0, go_on)


def test_a_load_that_is_left_ends_at_its_next_sign_of_life() -> None:
    goes_on, ended = threading.Event(), threading.Event()

    def load(pointer: Pointer, steps: Steps) -> str:
        goes_on.wait(300)
        try:
            steps.arrived(1)
        finally:
            ended.set()
        return "whole"

    with pytest.raises(ReplicaClosed):
        WaitingLoads().wait_for(POINTER, load, give_up)
    goes_on.set()
    assert ended.wait(300)


def test_the_loads_that_are_left_and_hang_are_few() -> None:
    loads, goes_on = WaitingLoads(), threading.Event()

    def hang(pointer: Pointer, steps: Steps) -> bool:
        return goes_on.wait(300)

    for _ in range(MAX_LOADS):
        with pytest.raises(ReplicaClosed):
            loads.wait_for(POINTER, hang, give_up)
    with pytest.raises(LoadFailed, match="3 downloads that were given up hang"):
        loads.wait_for(POINTER, hang, go_on)
    goes_on.set()

    def is_begun() -> bool:
        try:
            return loads.wait_for(POINTER, hang, go_on)
        except LoadFailed:
            return False

    wait_until(is_begun)
