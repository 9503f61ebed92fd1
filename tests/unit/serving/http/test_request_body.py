"""What a request's body is refused for."""

from __future__ import annotations

import json

from registry.serving.http.request_body import too_large


def test_a_document_without_images_is_no_bad_image() -> None:
    refused = json.dumps(vars(too_large(16 * 1024, has_images=False)), default=str)
    assert "BadInput" in refused
    assert "image" not in refused.lower()
    assert "BadImage" in json.dumps(vars(too_large(16 * 1024)), default=str)
