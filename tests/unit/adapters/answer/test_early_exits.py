"""How deep an adapter goes is chosen on held-out images, honestly beside the static cut, and read as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adapters.answer.early_exits import Depth, read_depth, write_depth
from adapters.answer.heads import LinearHead
from adapters.answer.ood import Mahalanobis
from adapters.answer.stages import Stage
from adapters.backbone.features import FeatureSpec
from adapters.bundle import BundleFiles
from adapters.fitting.depth_choice import ALLOWED_LOSS, MIN_IMAGES, DepthChoice, choose_depth
from registry.errors import BadInput, BadManifest
from tests.support.bundles import read_bundle

N = 400
CLASSES = torch.arange(N) // 2 % 2
SURE, UNSURE = 10.0, 0.1


def logits(right: torch.Tensor, margin: torch.Tensor) -> torch.Tensor:
    """Logits of two classes: right where told, and ahead by a margin."""
    predicted = torch.where(right, CLASSES, 1 - CLASSES)
    return torch.nn.functional.one_hot(predicted, 2) * margin[:, None]


def rows(*numbers: int) -> torch.Tensor:
    """True in these of ten rows, and so on for the next ten."""
    return torch.isin(torch.arange(N) % 10, torch.tensor(numbers))


EVERY, NO = torch.ones(N, dtype=torch.bool), torch.zeros(N, dtype=torch.bool)
FULL = logits(EVERY, torch.full((N,), SURE))


def unsure_where_wrong(right: torch.Tensor) -> torch.Tensor:
    return logits(right, torch.where(right, SURE, UNSURE))


def test_exits_that_know_what_they_do_not_know_are_recommended() -> None:
    """Three of ten images are hard, and the early heads are unsure of them alone."""
    early = unsure_where_wrong(~rows(0, 1, 2))
    choice = choose_depth({2: early, 4: early, 6: FULL}, CLASSES)
    assert choice.recommended == "dynamic"
    assert choice.report["dynamic"]["mean_blocks"] == pytest.approx(0.7 * 2 + 0.3 * 6)
    assert choice.report["dynamic"]["loss_on_other_half"] == choice.report["dynamic"]["loss"] == 0
    assert choice.cut is None


def test_a_static_cut_of_the_same_mean_depth_is_reported() -> None:
    early = unsure_where_wrong(~rows(0, 1, 2))
    report = choose_depth({2: early, 4: early, 6: FULL}, CLASSES).report
    beside = report["static_of_same_mean_depth"]
    assert (beside["block"], beside["accuracy"], beside["loss"]) == (4, pytest.approx(0.7), pytest.approx(0.3))
    assert report["accuracy_by_block"] == [[2, pytest.approx(0.7)], [4, pytest.approx(0.7)], [6, 1.0]]
    assert report["images"] == N


def test_an_equally_good_static_cut_is_preferred_to_exits() -> None:
    choice = choose_depth({2: unsure_where_wrong(rows(8, 9)), 3: FULL, 6: FULL}, CLASSES)
    assert choice.report["dynamic"]["mean_blocks"] < 3
    assert (choice.recommended, choice.cut) == ("static", 3)
    assert "as good" in choice.report["why"]


def test_early_heads_that_are_sure_and_wrong_are_not_used() -> None:
    early = logits(~rows(3), torch.full((N,), 15.0))
    choice = choose_depth({2: early, 6: FULL}, CLASSES)
    assert (choice.recommended, choice.threshold, choice.cut) == ("full", None, None)
    assert choice.report["dynamic"] is None
    assert choice.report["static"] is None


def test_what_one_half_chooses_must_hold_on_the_other() -> None:
    """The early head errs surely, but on every second image only, where one of the halves does not look."""
    early = logits(~rows(1, 3, 5), torch.full((N,), 15.0))
    choice = choose_depth({2: early, 6: FULL}, CLASSES)
    assert choice.threshold is None
    assert choice.cut is None


def test_early_corrections_offset_early_errors() -> None:
    full, early = logits(~rows(0, 1), torch.full((N,), SURE)), logits(~rows(2, 3), torch.full((N,), SURE))
    choice = choose_depth({2: early, 6: full}, CLASSES)
    assert choice.cut == 2
    assert choice.report["static"]["loss"] == 0
    assert choice.report["static"]["spoilt"] == 2 * N // 10
    assert choice.report["static"]["spoilt_share_at_most"] > 0.2


def test_few_images_are_no_reason_to_go_less_deep() -> None:
    few = MIN_IMAGES - 1
    choice = choose_depth({2: FULL[:few], 6: FULL[:few]}, CLASSES[:few])
    assert choice.recommended == "full"
    assert "too few" in choice.report["why"]
    assert choice.cut == 2  # for those who ask for it all the same


def test_the_loss_is_bounded_on_images_that_had_no_say() -> None:
    """Heads whose sureness says little, as often as not: whatever is chosen loses no more on new images than allowed,
    but for chance."""
    random = torch.Generator().manual_seed(0)

    def drawn(skill: float) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        classes = torch.randint(3, (N,), generator=random)
        truth = torch.nn.functional.one_hot(classes, 3).float()
        noise = {block: torch.randn(N, 3, generator=random) for block in (2, 3, 4, 5, 6)}
        return {block: skill * block * truth + 2 * noise[block] for block in noise}, classes

    losses, blocks = [], []
    for _ in range(30):
        choice = choose_depth(*drawn(2.0))
        new, classes = drawn(2.0)
        losses.append(_loss_of(choice, new, classes))
        blocks.append(choice.report["dynamic"]["mean_blocks"] if choice.recommended == "dynamic" else 6)
    assert sum(losses) / len(losses) <= ALLOWED_LOSS
    assert sum(blocks) / len(blocks) < 6


def _loss_of(choice: DepthChoice, logits: dict[int, torch.Tensor], classes: torch.Tensor) -> float:
    full = logits[6].argmax(dim=1)
    answer = full
    for block in (5, 4, 3, 2):
        sure = logits[block].softmax(dim=1).amax(dim=1) >= (choice.threshold or 2)
        answer = torch.where(sure, logits[block].argmax(dim=1), answer)
    if choice.recommended == "static" and choice.cut:
        answer = logits[choice.cut].argmax(dim=1)
    if choice.recommended == "full":
        answer = full
    return float((full == classes).double().mean() - (answer == classes).double().mean())


@pytest.mark.parametrize("blocks", [{6: FULL}, {}])
def test_without_exits_there_is_nothing_to_choose(blocks: dict[int, torch.Tensor]) -> None:
    with pytest.raises(BadInput, match="one exit"):
        choose_depth(blocks, CLASSES)


def test_without_images_there_is_nothing_to_choose_from() -> None:
    with pytest.raises(BadInput, match="one held-out image"):
        choose_depth({2: FULL[:0], 6: FULL[:0]}, CLASSES[:0])


# --- on the disk -----------------------------------------------------------------------------------------------------


def stage(block: int, threshold: float = 0.9, width: int = 8) -> Stage:
    labels, spec = ("rot", "sound"), FeatureSpec(block, "cls")
    head = LinearHead(labels, spec, torch.ones(2, width), torch.zeros(2))
    return Stage(
        head, Mahalanobis(labels, spec, torch.ones(2, width), torch.eye(width), torch.ones(2), 0.05), threshold
    )


def written(folder: Path, depth: Depth) -> BundleFiles:
    write_depth(folder / "adapter", depth)
    return BundleFiles(read_bundle(folder))


def test_a_depth_is_read_as_it_was_written(tmp_path: Path) -> None:
    depth = Depth("dynamic", (stage(2), stage(4, 0.8)), None, {"images": 3})
    files = written(tmp_path, depth)
    read = read_depth(files, "adapter", 8, 6, "cpu")
    assert read is not None
    assert (read.mode, read.cut, read.report) == ("dynamic", None, {"images": 3})
    assert [(one.block, one.threshold) for one in read.exits] == [(2, 0.9), (4, 0.8)]
    assert [one.block for one in read.stages(stage(6))] == [2, 4, 6]


def test_a_static_cut_has_one_stage_from_which_all_rows_leave(tmp_path: Path) -> None:
    files = written(tmp_path, Depth("static", (stage(2), stage(4)), 4, {}))
    read = read_depth(files, "adapter", 8, 6, "cpu")
    assert read is not None
    assert [(one.block, one.threshold) for one in read.stages(stage(6))] == [(4, 0.0)]


def test_full_depth_needs_no_exit(tmp_path: Path) -> None:
    assert read_depth(BundleFiles({}), "adapter", 8, 6, "cpu") is None


@pytest.mark.parametrize("exits", [(stage(4), stage(2)), (stage(2), stage(2)), (Stage(stage(2).head),)])
def test_exits_that_could_not_be_read_are_not_written(exits: tuple[Stage, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not ascend, or one has no detector"):
        write_depth(tmp_path, Depth("dynamic", exits, None, {}))


@pytest.mark.parametrize(
    ("depth", "says"),
    [
        (Depth("deep", (stage(2),), None, {}), "mode 'deep'"),
        (Depth("dynamic", (), None, {}), "its exits are not known"),
        (Depth("dynamic", (stage(6),), None, {}), "do not ascend below 6"),
        (Depth("static", (stage(2),), None, {}), "cut None is not one of the exits"),
        (Depth("dynamic", (stage(2), stage(4)), 3, {}), "cut 3"),
        (Depth("dynamic", (stage(2, threshold=0.0),), None, {}), "not positive"),
    ],
)
def test_a_depth_that_cannot_be_meant_is_refused(depth: Depth, says: str, tmp_path: Path) -> None:
    files = written(tmp_path, depth)
    with pytest.raises(BadManifest, match=says):
        read_depth(files, "adapter", 8, 6, "cpu")
