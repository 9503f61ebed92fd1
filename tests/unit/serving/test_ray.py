"""What is said to replicas on Ray Serve, and a replica's liveness, without a cluster."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from registry.errors import BadInput
from registry.serving.options import LiveOptions
from registry.serving.pace import SIZES
from registry.serving.ray import RayArguments, app


def test_arguments_may_be_text_as_a_command_line_has_them() -> None:
    arguments = RayArguments.read({"channel": "staging", "max_batch": "16", "cors_origins": ["*"], "deadline": "0.5"})
    assert arguments.live_options() == LiveOptions(max_batch=16, deadline=0.5)
    assert arguments.http_options().cors_origins == ("*",)
    assert arguments.deployment()["max_ongoing_requests"] == 32


def test_a_batch_fills_while_the_largest_one_is_computed() -> None:
    assert RayArguments.read({}).ongoing == 2 * max(SIZES)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"max_batch": 8, "max_ongoing_requests": 15}, "twice max_batch 8"),
        ({"min_replicas": 3, "max_replicas": 2}, "less than min_replicas"),
        ({"replicas": 3}, "replicas"),
        ({"deadline": "soon"}, "deadline"),
        ({"max_images": 0}, "max_images"),
        ({"channel": "../production"}, "channel"),
    ],
)
def test_arguments_that_can_not_be_followed_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        app(given)


def test_an_import_takes_neither_ray_nor_torch() -> None:
    """A cluster's controller imports the module, as does who only asks for `predict_dataset`."""
    code = "import sys, registry.serving.ray; print([name for name in ('ray', 'torch') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
