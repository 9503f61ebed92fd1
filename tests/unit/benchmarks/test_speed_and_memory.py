"""Each benchmark of speed and memory runs on tiny sizes, gives its figures, and judges budgets by them.

How large the figures are is no concern of a test.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from adapters import bundle
from adapters.answer.early_exits import Depth, write_depth
from adapters.answer.heads import LinearHead
from adapters.answer.loaded import LoadedVersion
from adapters.answer.loading import load_bundle
from adapters.answer.ood import Mahalanobis
from adapters.answer.stages import Stage
from adapters.backbone.features import FeatureSpec
from adapters.backbone.locate import TINY
from adapters.backbone.resolve import ref_of_folder
from adapters.fitting.image_folder import ImageFile, ImageFolder, LabelledImage
from adapters.runtimes.open_runtime import open_runtime
from benchmarks import depth, depth_speed, flip, footprint, loading, mixed, residents, stages, workload
from benchmarks.footprint import Footprint
from benchmarks.synthetic import MODULES, SyntheticBackbone, files_of, made_of, make_backbone, write_bundle
from registry.errors import BadInput, LoadFailed
from registry.store.objects import ObjectStore
from tests.support.coloured_images import write_blotches

TARGETS = ("apple", "grape")


def ask(command: Any, *arguments: str) -> dict[str, Any]:
    """A command's result; it has the fields that every result has, and its budgets are judged by their figures."""
    done: Result = CliRunner().invoke(command, [*arguments, "--threads", "1", "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    return sound(json.loads(done.stdout))


def sound(result: dict[str, Any]) -> dict[str, Any]:
    assert result.keys() == {"benchmark", "setting", "machine", "times", "figures", "budgets", "met"}
    assert all(times["median_ms"] > 0 for times in result["times"].values())
    for budget in result["budgets"]:
        below = budget["value"] <= budget["limit"]
        assert budget["met"] == (below if budget["bound"] == "at most" else not below or _is(budget))
    assert result["met"] == all(budget["met"] for budget in result["budgets"])
    return result


def _is(budget: dict[str, Any]) -> bool:
    return bool(budget["value"] == budget["limit"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticBackbone:
    return make_backbone(tmp_path_factory.mktemp("backbone"), "tiny")


@pytest.fixture(scope="module")
def place(made: SyntheticBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle's folder."""
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(folder, made, targets=TARGETS, modules=MODULES["all-linear"]["dinov2"], rank=8, seed=1)
    return folder


def test_a_mixed_batch_is_compared_and_computed_like_peft() -> None:
    result = ask(mixed.main, "--size", "tiny", "--rounds", "2")
    for modules in MODULES:
        assert result["figures"][f"{modules}: adapters change features by"] > 0.01
        assert result["figures"][f"{modules}: ours differs from PEFT by"] < 1e-4
        assert {f"{modules}: {who}, {n}" for who in ("ours", "PEFT") for n in ("8 adapters", "1 adapter")} <= result[
            "times"
        ].keys()
    assert [budget["what"] for budget in result["budgets"]] == [f"{m}: mixed batch / single batch" for m in MODULES]


@pytest.mark.acceptance
def test_a_flip_goes_through_a_replica_and_moves_no_tensor(store_url: str, tmp_path: Path) -> None:
    store = ObjectStore(store_url)
    store.initialise()
    result = sound(json.loads(json.dumps(flip.flip(store, tmp_path, "tiny", 3).document())))
    assert {"flip of a replica", "PEFT: set_adapter", "PEFT: hotswap_adapter"} <= result["times"].keys()
    assert result["figures"]["tensors in memory"] > 150
    moved, grown = result["budgets"][1:]
    assert (moved["value"], grown["value"]) == (0, 0)


def test_loading_is_held_against_reading_the_bytes() -> None:
    result = ask(loading.main, "--size", "tiny", "--rounds", "2")
    assert {"tiny: read", "tiny: ours, into a free slot", "tiny: ours, into a new page"} <= result["times"].keys()
    assert len(result["budgets"]) == 2
    assert result["figures"]["tiny: bytes"] > 10_000


def test_the_loaded_adapters_have_the_sizes_in_their_names() -> None:
    for name, adapter in loading.ADAPTERS.items():
        one = made_of(adapter.size)
        modules = MODULES[adapter.modules][one.ref.family]
        numbers = sum(sum(shape) for module, shape in one.linears.items() if module.rpartition(".")[2] in modules)
        assert 4 * adapter.rank * numbers / 1e6 == pytest.approx(float(name.split()[0]), rel=0.03)


@pytest.mark.acceptance
def test_a_process_says_what_versions_take(made: SyntheticBackbone, place: Path) -> None:
    seen = footprint.observe(made.folder, [place], threads=1, rounds=1)
    held = residents.adapter_bytes(place)
    assert seen.bank >= 0.7 * held
    assert seen.held == pytest.approx(held, rel=0.05)
    assert seen.peak >= seen.loaded >= seen.backbone > 0
    assert sum(seen.outcomes.values()) == footprint.ROWS
    assert {"decode and resize", "heads and detectors", "whole batch", "blocks 1 to 6"} <= seen.stages_ms.keys()


def test_a_process_that_fails_says_why(made: SyntheticBackbone, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"a process that loads 1 bundles failed: .*nowhere.* does not exist"):
        footprint.in_fresh_process(made.folder, [tmp_path / "nowhere"], threads=1)


@pytest.mark.parametrize(("grown", "held", "met"), [(120, 120, True), (121, 100, False), (100, 121, False)])
def test_memory_may_grow_by_a_fifth_more_than_the_adapters_bytes(grown: int, held: int, met: bool) -> None:
    seen = {2: Footprint(backbone=1000, loaded=1000 + 2 * grown, used=0, peak=0, bank=0, held=2 * held)}
    assert residents.result_of(seen, 100, {}).document()["met"] is met


def test_a_mixed_batch_has_rows_of_all_targets_and_versions(place: Path) -> None:
    versions = [load_bundle(files_of(place)), load_bundle(files_of(place))]
    batch = stages.rows(versions, 8)
    assert {(id(row.version), row.target) for row in batch} == {(id(v), t) for v in versions for t in TARGETS}
    assert [answer.target for answer in stages.predict(batch)] == [row.target for row in batch]


@pytest.mark.acceptance
def test_the_workload_is_imported_loaded_and_answered() -> None:
    result = ask(workload.main, "--size", "tiny-dinov3", "--rounds", "1")
    assert result["figures"]["outcomes"] in ({"review": 8}, {"answer": 8})
    assert {"import", "load the versions", "predict the first mixed batch"} <= result["figures"]["seconds"].keys()
    assert result["figures"]["memory, MB"]["bank"] > 0


def test_the_workloads_shapes_give_files_of_the_published_sizes(tmp_path: Path) -> None:
    shapes = {shape.target: shape for shape in workload.SHAPES}
    assert [shape.rank for shape in workload.SHAPES] == [20, 20, 24, 24, 20, 24, 24, 32]
    assert (shapes["tomato__leaf"].classes, shapes["apricot__leaf"].classes) == (10, 3)
    assert all(0 < shape.vectors <= 256 for shape in workload.SHAPES)
    published = next(one for one in workload.RELEASE if one.target == "apricot__leaf")
    tiny = SyntheticBackbone(ref_of_folder(TINY / "dinov3-tiny"), TINY / "dinov3-tiny")
    folder = workload.write_target(tmp_path, tiny, shapes["apricot__leaf"], seed=0)
    assert (folder / "classifier.pth").stat().st_size == pytest.approx(published.classifier, rel=0.05)
    assert (folder / "adapter_meta.json").stat().st_size == pytest.approx(published.meta, rel=0.05)
    weights = load_file(folder / bundle.ADAPTER_WEIGHTS)
    assert {len(tensor) for name, tensor in weights.items() if ".lora_A." in name} == {20}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    return ImageFolder(write_blotches(tmp_path_factory.mktemp("images")))


@pytest.fixture(scope="module")
def images(data: ImageFolder) -> list[LabelledImage]:
    return list(data.split("test"))


@pytest.fixture(scope="module")
def place_with_exits(data: ImageFolder, made: SyntheticBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for the images' targets; half of all rows leave at one of two exits, more or less."""
    folder = tmp_path_factory.mktemp("exits")
    write_bundle(folder, made, targets=data.targets, modules=("q_proj",), rank=2, seed=3)
    for target in data.targets:
        exits = tuple(_exit(block) for block in (2, 4))
        report = {"dynamic": {"mean_blocks": 2.5}, "recommended": "dynamic", "why": "a test"}
        write_depth(folder / bundle.adapter_folder(target), Depth("dynamic", exits, None, report))
    return folder


@pytest.fixture(scope="module")
def with_exits(place_with_exits: Path) -> LoadedVersion:
    return load_bundle(files_of(place_with_exits))


def _exit(block: int) -> Stage:
    labels, spec, random = (
        ("healthy", "rust", "blight"),
        FeatureSpec(block, "cls"),
        torch.Generator().manual_seed(block),
    )
    head = LinearHead(labels, spec, torch.randn(3, 96, generator=random), torch.zeros(3))
    return Stage(head, Mahalanobis(labels, spec, torch.zeros(3, 96), torch.eye(96), torch.ones(3), 0.05), 0.9)


def test_exits_are_held_against_full_depth_and_a_static_cut(
    with_exits: LoadedVersion, images: list[LabelledImage]
) -> None:
    far = [ImageFile(image.path, image.sha256) for image in images[:3]]
    result = sound(depth.depth(with_exits, images, 1, far).document())
    assert result["figures"]["full"]["mean_blocks"] == 6
    assert result["figures"]["static"]["mean_blocks"] == 4, "the first exit behind 2.5 blocks"
    assert 2 <= result["figures"]["dynamic"]["mean_blocks"] < 6
    assert all(result["figures"][way]["n"] == len(images) for way in ("full", "dynamic", "static"))
    assert all(0 < result["figures"][way]["far_auroc"] < 1 for way in ("full", "dynamic", "static"))
    loss = result["budgets"][1]
    assert loss["value"] == pytest.approx(
        100 * (result["figures"]["full"]["accuracy"] - result["figures"]["dynamic"]["accuracy"]), abs=1e-3
    )


@pytest.mark.acceptance
def test_the_same_shares_leave_early_on_the_large_backbone(place_with_exits: Path, data: ImageFolder) -> None:
    given_bundle = ["--data", str(data.root), "--bundle", str(place_with_exits)]
    result = ask(depth.main, *given_bundle, "--speed-on", "tiny", "--rounds", "1")
    assert result["figures"]["mean blocks on tiny"] == pytest.approx(
        result["figures"]["dynamic"]["mean_blocks"], abs=4 / depth_speed.IMAGES
    )
    assert {"full, tiny", "dynamic, tiny"} <= result["times"].keys()
    assert len(result["budgets"]) == 3


@given(st.lists(st.integers(1, 8), min_size=1, max_size=4), st.integers(0, 2**31))
def test_thresholds_let_as_many_images_leave_as_they_should(leaving: list[int], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    counts = {2 * number + 1: count for number, count in enumerate(leaving)}
    sure = {block: torch.randperm(40, generator=random) / 40 + 0.001 for block in counts}
    thresholds = depth_speed.thresholds_for(sure, counts)
    left = torch.arange(40)
    for block, count in counts.items():
        leaves = sure[block][left] >= thresholds[block]
        assert int(leaves.sum()) == count
        left = left[~leaves]


def test_shares_become_image_counts_at_the_same_relative_depth() -> None:
    leaving = depth_speed.EarlyExitShares({2 / 6: 0.25, 3 / 6: 0.5, 5 / 6: 0.01})
    assert leaving.counts(24, depth=12) == {4: 6, 6: 12}
    assert leaving.counts(100, depth=6) == {2: 25, 3: 50, 5: 1}


def test_a_version_without_exits_saves_nothing(place: Path) -> None:
    ways = depth.three_ways(load_bundle(files_of(place)))
    assert {len(one.stages) for way in ways.values() for one in way.components.adapters.values()} == {1}
    assert {one.stages[0].block for way in ways.values() for one in way.components.adapters.values()} == {6}


def test_depth_is_measured_on_images_of_the_versions_targets(with_exits: LoadedVersion) -> None:
    with pytest.raises(BadInput, match="no image of the version's targets"):
        depth.depth(with_exits, [], 1)


@pytest.mark.parametrize("module", [depth, flip, loading, mixed, residents, workload])
def test_each_command_has_examples_in_its_help(module: Any) -> None:
    said = CliRunner().invoke(module.main, ["--help"]).output
    assert f"python -m {module.__name__}" in said
    assert {"--json", "--threads"} <= set(said.split())


def test_a_bundle_without_its_images_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    done = CliRunner().invoke(depth.main, ["--bundle", str(tmp_path)])
    assert (done.exit_code, "--bundle needs --data" in done.output) == (2, True)


def test_a_skeleton_has_the_shapes_of_the_backbone(made: SyntheticBackbone) -> None:
    model, runtime = made.skeleton(), open_runtime(made.ref)
    shapes = {name: (one.in_features, one.out_features) for name, one in runtime.bank.linears.items()}
    assert shapes == dict(made.linears)
    assert [p.shape for p in model.parameters()] == [p.shape for p in runtime.model.parameters()]  # type: ignore[attr-defined]
