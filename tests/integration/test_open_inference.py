"""The Open Inference Protocol, as Triton's own client speaks it, and as others may get it wrong."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from registry.errors import BadInput
from registry.serving.byte_budget import ByteBudget, HeldBytes
from registry.serving.follow import Live
from registry.serving.http.infer_inputs import read_inputs
from registry.serving.http.open_inference import OUTPUTS
from registry.serving.http.options import HttpOptions
from registry.serving.http.tensors import OutputTensor, split_bytes
from registry.serving.loaders import load_version
from registry.serving.options import LiveOptions
from registry.store.objects import ObjectStore
from registry.versions.bundle import DEFAULT_FLAVOR
from tests.support.bundles import write_bundle
from tests.support.echo_releases import Shop, find_echo, wait_until
from tests.support.http_batches import as_text, noise_png
from tests.support.running_app import running

IMAGES = [noise_png(seed) for seed in range(3)]


@pytest.fixture
def shop(store_url: str, model: str, tmp_path: Path) -> Shop:
    return Shop(ObjectStore(store_url), model, tmp_path)


@pytest.fixture
def echo(shop: Shop) -> Iterator[httpx.Client]:
    """A replica of two versions of a flavor that needs no torch; v1.1.0 is served, v1.0.0 is in memory."""
    for name in ("v1.0.0", "v1.1.0"):
        shop.release(name)
        shop.promote(name)
    with Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(find=find_echo, deadline=600)) as live:
        wait_until(lambda: live.health().rollback_ready)
        with running(live, HttpOptions(max_images=4)) as client:
            yield client


def image_input(images: list[bytes], *, binary: bool = True, shape: list[int] | None = None) -> Any:
    content = np.array(images if binary else [as_text(image) for image in images], dtype=np.object_)
    tensor = triton.InferInput("image", shape or [len(images)], "BYTES")
    return tensor.set_data_from_numpy(content.reshape(shape or [len(images)]), binary_data=binary)


@pytest.mark.acceptance
def test_tritons_client_gets_what_predict_answers(shop: Shop, tmp_path: Path) -> None:
    shop.release("v1.0.0", write_bundle(tmp_path / "v1", family="dinov3"), flavor=DEFAULT_FLAVOR)
    shop.promote("v1.0.0")
    images = [*IMAGES, b"no image"]
    quiet = load_version(shop.versions, shop.blobs, shop.pointer("v1.0.0")).predict(images, target="mid")
    with Live(shop.channel(), shop.versions, shop.blobs, LiveOptions(deadline=600)) as live, running(live) as http:
        client = triton.InferenceServerClient(http.base_url.netloc.decode(), network_timeout=300)
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(shop.model)
        assert client.is_model_ready(shop.model, "v1.0.0")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        described = client.get_model_metadata(shop.model)
        assert (described["name"], described["versions"]) == (shop.model, ["v1.0.0"])
        assert [(each["name"], each["datatype"]) for each in described["outputs"]] == list(OUTPUTS.items())
        asked = {"parameters": {"target": "mid", "key": "user-7"}, "request_id": "seven"}
        for tensor in (image_input(images), image_input(images, binary=False), image_input(images, shape=[4, 1])):
            found = client.infer(shop.model, [tensor], **asked)
            response = found.get_response()
            assert (response["model_name"], response["model_version"]) == (shop.model, "v1.0.0")
            assert response["id"] == "seven"
            assert response["parameters"]["manifest_sha256"] == shop.pointer("v1.0.0").manifest_sha256
            assert_same(found, [each.to_dict() for each in quiet])
        client.close()


def assert_same(found: Any, quiet: list[dict[str, Any]]) -> None:
    """All outputs as `predict` has them."""
    for name, datatype in OUTPUTS.items():
        values = found.as_numpy(name).tolist()
        expected = [each.get(name, "") for each in quiet]  # without keys there are no receipts
        if datatype == "FP64":
            expected = [math.nan if each is None else each for each in expected]
            assert values == pytest.approx(expected, rel=1e-3, abs=1e-3, nan_ok=True), name
        elif datatype == "BYTES":
            assert [each.decode() for each in values] == [each or "" for each in expected], name
        else:
            assert values == expected, name


def test_outputs_are_given_as_they_are_asked_for(shop: Shop, echo: httpx.Client) -> None:
    client = triton.InferenceServerClient(echo.base_url.netloc.decode(), network_timeout=300)
    outputs = [triton.InferRequestedOutput("outcome", binary_data=False), triton.InferRequestedOutput("is_ood")]
    found = client.infer(shop.model, [image_input([b"a", b"b"])], outputs=outputs)
    assert [output["name"] for output in found.get_response()["outputs"]] == ["outcome", "is_ood"]
    assert found.get_output("outcome")["data"] == ["answer", "answer"]
    assert "data" not in found.get_output("is_ood")
    assert found.as_numpy("is_ood").tolist() == [False, False]
    with pytest.raises(InferenceServerException, match="no output 'colour'"):
        client.infer(shop.model, [image_input([b"a"])], outputs=[triton.InferRequestedOutput("colour")])
    client.close()


def test_a_version_in_memory_answers_by_its_name(shop: Shop, echo: httpx.Client) -> None:
    client = triton.InferenceServerClient(echo.base_url.netloc.decode(), network_timeout=300)
    for version, arm in (("", "stable"), ("v1.1.0", "stable"), ("v1.0.0", "named")):
        response = client.infer(shop.model, [image_input([b"a"])], model_version=version).get_response()
        assert response["model_version"] == (version or "v1.1.0")
        pointer = shop.pointer(version or "v1.1.0")
        assert response["parameters"] == {
            "manifest_sha256": pointer.manifest_sha256, "arm": arm, "sticky": False,
        }  # fmt: skip
    with pytest.raises(InferenceServerException, match=r"\[404\].*v9\.0\.0"):
        client.infer(shop.model, [image_input([b"a"])], model_version="v9.0.0")
    assert not client.is_model_ready(shop.model, "v9.0.0")
    assert not client.is_model_ready("tomatoes")
    with pytest.raises(InferenceServerException, match="no model 'tomatoes'"):
        client.get_model_metadata("tomatoes")
    client.close()


def infer(shop: Shop, http: httpx.Client, document: Any, behind: bytes = b"", **headers: str) -> httpx.Response:
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    named = {"Inference-Header-Content-Length": str(len(head))} if behind else {}
    return http.post(
        f"/v2/models/{shop.model}/infer",
        content=head + behind,
        headers=named | {name.replace("_", "-"): value for name, value in headers.items()},
    )


def tensor(*data: Any, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [len(data)], "data": list(data)} | more]}


def test_what_is_no_request_is_refused_in_its_form(shop: Shop, echo: httpx.Client) -> None:
    one = as_text(b"a")
    bad = [
        b"", b"[]", b"{}", {"inputs": []}, tensor(one, name="x"), tensor(one, datatype="FP32"),
        tensor(one, shape=[2]), tensor(one, shape=[1, 2]), tensor(one, shape=[-1]), tensor(one, shape=[]), tensor(),
        tensor(*[one] * 5), tensor("a"), tensor("é"), tensor(5), tensor(one, parameters={"content_type": "str"}),
        tensor(one, parameters={"target": "../low"}), tensor(one, parameters={"target": 5}), tensor(one, data=None),
        tensor(one, parameters={"key": "k" * 257}), tensor(one, parameters={"binary_data_size": 3}),
        tensor(one) | {"outputs": [{"name": "colour"}]}, tensor(one) | {"id": "x" * 300},
    ]  # fmt: skip
    for document in bad:
        answer = infer(shop, echo, document)
        assert (answer.status_code, list(answer.json())) == (400, ["error"]), document
        assert answer.headers["X-Ulora-Version"] == "v1.1.0"
    assert infer(shop, echo, tensor(one)).status_code == 200
    assert infer(shop, echo, tensor([one], shape=[1, 1], parameters={"content_type": "base64"})).status_code == 200
    assert infer(shop, echo, tensor(one, shape=[1.0])).status_code == 200
    missing = echo.get("/v2/nowhere")
    assert (missing.status_code, list(missing.json())) == (404, ["error"])
    refused = infer(shop, echo, tensor(one), X_Request_Timeout_Ms="soon")
    assert (refused.status_code, list(refused.json())) == (400, ["error"])


def test_a_binary_tensor_that_lies_is_refused(shop: Shop, echo: httpx.Client) -> None:
    behind = struct.pack("<I", 1) + b"a"

    def ask(behind: bytes, size: Any, shape: int = 1, **headers: str) -> int:
        document = tensor(shape=[shape], parameters={"binary_data_size": size})
        del document["inputs"][0]["data"]
        return infer(shop, echo, document, behind, **headers).status_code

    assert ask(behind, 5) == 200
    assert ask(behind * 2, 10, shape=2) == 200
    assert ask(behind, 4) == ask(behind, True) == ask(behind, "5") == ask(behind, None) == 400
    assert ask(behind * 2, 10) == ask(behind, 5, shape=2) == ask(behind[:-1], 4) == ask(behind[:3], 3) == 400
    assert ask(struct.pack("<I", 2**32 - 1) + b"a", 5) == 400
    for length in ("-1", "1e3", "²", "999999999", "9" * 30, ""):
        assert ask(behind, 5, Inference_Header_Content_Length=length.encode()) == 400  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=20), max_size=6))
def test_binary_texts_are_read_as_they_were_written(elements: list[bytes]) -> None:
    texts = [element.hex() for element in elements]
    written = OutputTensor("x", "BYTES", texts, True).to_bytes()
    assert [bytes(each).decode() for each in split_bytes(memoryview(written), len(texts))] == texts


@settings(deadline=None)
@given(st.binary(max_size=60), st.one_of(st.none(), st.text(max_size=4)))
def test_any_bytes_are_a_request_or_are_refused(body: bytes, header: str | None) -> None:
    document = json.dumps(tensor(shape=[2], parameters={"binary_data_size": len(body)})).replace('"data": [], ', "")
    for each, length in ((body, header), (document.encode() + body, str(len(document)))):
        with suppress(BadInput):
            assert len(read_inputs(each, length, 2, HeldBytes(ByteBudget(10_000))).images) in (1, 2)
