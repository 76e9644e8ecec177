"""The shipped protocols are the published recipes, expect published scores, and are documented."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from contextbench.config.differences import differences
from contextbench.config.files import ConfigError, configs_folder, names_in
from contextbench.config.protocols import Expectation, Protocol, load_protocol
from contextbench.data import DATASETS, Facts, dataset_source
from contextbench.data.transforms import check_crop
from contextbench.papers.published import PublishedScore, load_scores, refer
from contextbench.papers.recipes import METHODS, facts_of
from heads import HEADS

PROTOCOLS = {name: load_protocol(name) for name in names_in("protocols")}
PAPERS = {name: protocol for name, protocol in PROTOCOLS.items() if protocol.expected is not None}
VIEWS = [(name, view) for name, protocol in PAPERS.items() for view in protocol.evaluate]
OWN = {"probe", "camvid-small"}  # recipes of this project
DOCUMENT = Path(__file__).parents[1] / "docs" / "protocols.md"

# What the document says of datasets and variants that have no protocol of a paper.
WITHOUT = {
    "probe": "drawn here",
    "camvid": "no source has a recipe for it",
    "folder": "your own data",
    "lip multi": "its source averages the mirror image at one scale",
}


@dataclass(frozen=True)
class Recipe:
    """As published, before any departure; lengths of training in steps or in epochs."""

    lr: float
    weight_decay: float
    batch: int
    crop: tuple[int, int]
    steps: int = 0
    epochs: int = 0
    scale: tuple[float, float] = (0.5, 2.0)
    head_lr_factor: float = 1.0


# By code base or paper and dataset: typed from the sources, not from the files under test.
RECIPES = {
    ("mmsegmentation", "cityscapes"): Recipe(0.01, 5e-4, 8, (512, 1024), steps=40_000),
    ("mmsegmentation", "ade20k"): Recipe(0.01, 5e-4, 16, (512, 512), steps=80_000),
    ("mmsegmentation", "voc"): Recipe(0.01, 5e-4, 16, (512, 512), steps=20_000),
    ("mmsegmentation", "pascal_context"): Recipe(0.004, 1e-4, 16, (480, 480), steps=40_000),
    ("mmsegmentation", "coco_stuff"): Recipe(0.01, 5e-4, 16, (512, 512), steps=80_000),
    ("openseg", "cityscapes"): Recipe(0.01, 5e-4, 8, (512, 1024), steps=40_000),
    ("openseg", "ade20k"): Recipe(0.02, 1e-4, 16, (520, 520), steps=150_000),
    ("openseg", "pascal_context"): Recipe(
        0.001, 1e-4, 16, (520, 520), steps=30_000, head_lr_factor=10
    ),
    ("openseg", "coco_stuff"): Recipe(0.001, 1e-4, 16, (520, 520), steps=60_000, head_lr_factor=10),
    ("openseg", "lip"): Recipe(0.007, 5e-4, 32, (473, 473), steps=100_000, scale=(0.5, 1.5)),
    ("semseg", "cityscapes"): Recipe(0.01, 1e-4, 16, (713, 713), epochs=200, head_lr_factor=10),
    ("semseg", "ade20k"): Recipe(0.01, 1e-4, 16, (473, 473), epochs=100, head_lr_factor=10),
    ("EncNet", "pascal_context"): Recipe(0.001, 1e-4, 16, (480, 480), epochs=50, head_lr_factor=10),
    ("OCNet", "cityscapes"): Recipe(0.01, 5e-4, 8, (769, 769), steps=40_000, scale=(0.5, 2.1)),
}


class Origin(NamedTuple):
    """Where the scores of a code base or paper are, and what their source begins with."""

    file: str
    source: str


ORIGINS = {
    "mmsegmentation": Origin("mmseg_published.csv", "open-mmlab/mmsegmentation"),
    "openseg": Origin("model_zoo.csv", "openseg-group/openseg.pytorch"),
    "semseg": Origin("model_zoo.csv", "hszhao/semseg"),
    "OCR paper": Origin("ocr_ablation.csv", "OCR paper"),
    "OCNet paper": Origin("ocnet_ablation.csv", "OCNet paper"),
    "EncNet paper": Origin("encnet_ablation.csv", "EncNet paper"),
    "DANet paper": Origin("peers_ablation.csv", "DANet paper"),
}


def expectation(protocol: Protocol) -> Expectation:
    assert protocol.expected is not None
    return protocol.expected


def recipe_name(protocol: Protocol) -> str:
    """The code base or paper that a protocol's recipe comes from."""
    source = expectation(protocol).source
    return next(name for name, _ in RECIPES if name in source)


def recipe_of(protocol: Protocol) -> Recipe:
    return RECIPES[recipe_name(protocol), protocol.dataset.name]


def facts(protocol: Protocol) -> Facts:
    return dataset_source(protocol.dataset).facts


def images(protocol: Protocol) -> int:
    """Official number of training images."""
    count = facts(protocol).splits[protocol.dataset.train]
    assert count is not None
    return count


def head_of_file(name: str) -> str:
    """The comment above the keys, as one line."""
    lines = (configs_folder() / "protocols" / f"{name}.yaml").read_text("utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def test_all_but_our_own_are_recipes_of_papers() -> None:
    assert set(PROTOCOLS) - set(PAPERS) == OWN


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_file_says_how_to_run_it_and_where_it_comes_from(name: str) -> None:
    text = head_of_file(name)
    assert f"contextbench compare --protocol {name} --data-root DATA " in f"{text} " or (
        name == "probe"
    )
    if name in PAPERS:
        assert " Source: " in text
        assert " Departs from it: " in text


@pytest.mark.parametrize("name", PROTOCOLS)
def test_data_are_known_before_they_are_there(name: str) -> None:
    """Splits with labels and an official number, all classes, crops that images can fill."""
    protocol = PROTOCOLS[name]
    known = facts(protocol)
    for split in (protocol.dataset.train, protocol.dataset.evaluate):
        assert known.splits[split]
    assert protocol.dataset.train != protocol.dataset.evaluate
    if known.size is not None:
        check_crop(protocol.train.crop, known.size, protocol.train.scale)
    weights = protocol.train.loss.class_weights
    assert not isinstance(weights, tuple) or len(weights) == len(known.labels.classes)


@pytest.mark.parametrize(
    ("start", "classes", "train", "evaluate"),
    [
        ("cityscapes", 19, 2975, 500),
        ("ade20k", 150, 20210, 2000),
        ("voc-aug", 21, 10582, 1449),
        ("pascal-context-59", 59, 4998, 5105),
        ("pascal-context-60", 60, 4998, 5105),
        ("coco-stuff-10k", 171, 9000, 1000),
        ("coco-stuff-164k", 171, 118287, 5000),
        ("lip", 20, 30462, 10000),
        ("camvid", 11, 367, 101),
    ],
)
def test_a_name_begins_with_its_data(start: str, classes: int, train: int, evaluate: int) -> None:
    named = [protocol for name, protocol in PROTOCOLS.items() if name.startswith(start)]
    assert named
    for protocol in named:
        known, config = facts(protocol), protocol.dataset
        counts = (known.splits[config.train], known.splits[config.evaluate])
        assert (len(known.labels.classes), *counts) == (classes, train, evaluate)


@pytest.mark.parametrize("name", PAPERS)
def test_a_protocol_has_the_published_recipe(name: str) -> None:
    train, recipe = PAPERS[name].train, recipe_of(PAPERS[name])
    assert (train.lr, train.weight_decay, train.batch, train.crop, train.head_lr_factor) == (
        recipe.lr,
        recipe.weight_decay,
        recipe.batch,
        recipe.crop,
        recipe.head_lr_factor,
    )
    # An epoch leaves the last images out that do not fill a batch, as the sources' loaders do.
    steps = recipe.steps or recipe.epochs * (images(PAPERS[name]) // recipe.batch)
    assert train.steps == steps
    assert (train.optimizer, train.momentum, train.schedule.power) == ("sgd", 0.9, 0.9)
    # Scales may be relative to another size, but then both ends by the same factor.
    low, high = (ours / theirs for ours, theirs in zip(train.scale, recipe.scale, strict=True))
    assert low == pytest.approx(high, rel=0.01)
    departs = re.search(r"so these are (\d+)/(\d+) times as large", head_of_file(name))
    factor = int(departs[1]) / int(departs[2]) if departs else 1
    assert high == pytest.approx(factor, rel=0.01)


@pytest.mark.parametrize("name", PAPERS)
def test_the_floor_of_the_learning_rate_is_the_published_one(name: str) -> None:
    """1e-4 in mmsegmentation, whatever the initial rate; the others decay to zero."""
    train = PAPERS[name].train
    expected = 1e-4 if recipe_name(PAPERS[name]) == "mmsegmentation" else 0
    assert train.lr * train.schedule.floor == pytest.approx(expected)


@pytest.mark.parametrize(("name", "view"), VIEWS)
def test_windows_are_as_large_as_crops_and_overlap(name: str, view: str) -> None:
    """By a third of the window, which is the stride of their sources, rounded up."""
    config = PAPERS[name].view(view)
    if config.window is not None and config.stride is not None:
        assert config.window == PAPERS[name].train.crop
        for window, stride in zip(config.window, config.stride, strict=True):
            assert stride == -(-2 * window // 3)


@pytest.mark.parametrize("name", [name for name, view in VIEWS if view == "multi"])
def test_views_differ_in_scales_and_flip_alone(name: str) -> None:
    """But for the average of windows, where the file says so."""
    protocol = PAPERS[name]
    assert len(protocol.view("multi").scales) > 1
    assert protocol.view("multi").flip
    if list(protocol.evaluate) == ["multi"]:
        return
    assert list(protocol.evaluate) == ["single", "multi"]
    single, multi = (protocol.seen(view)["evaluate"] for view in protocol.evaluate)
    averaged = "in view multi windows are averaged in probabilities" in head_of_file(name)
    assert set(differences(single, multi)) == {"scales", "flip", *["average"] * averaged}


@pytest.mark.parametrize("name", ["ade20k-r50-ms", "pascal-context-59-r101-openseg-ms"])
def test_the_name_of_a_protocol_that_became_a_view_names_the_new_way(name: str) -> None:
    base = name.removesuffix("-ms")
    with pytest.raises(ConfigError, match=f"{name} is now the view multi of protocol {base}"):
        load_protocol(name)


@pytest.mark.parametrize("name", [name for name in PAPERS if "-r50" in name])
def test_depths_differ_in_nothing_but_the_backbone(name: str) -> None:
    deeper = PAPERS[name.replace("-r50", "-r101")]
    for view in PAPERS[name].evaluate:
        found = differences(PAPERS[name].seen(view), deeper.seen(view))
        keys = {key for key in found if not key.startswith("expected.")}
        assert keys == {"name", "backbone.name"}


@pytest.mark.parametrize("name", PAPERS)
def test_names_say_backbone_and_views(name: str) -> None:
    protocol = PAPERS[name]
    depth = re.search(r"-r(50|101)(-|$)", name)
    assert depth is not None
    assert protocol.backbone.name == f"resnet{depth[1]}"
    assert protocol.backbone.output_stride == 8
    for view, config in protocol.evaluate.items():
        assert (view, config.split) == ("multi" if len(config.scales) > 1 else "single", None)


def test_every_dataset_has_both_backbones_and_both_evaluations_or_a_reason() -> None:
    variants = {re.sub(r"-r(50|101).*", "", name) for name in PAPERS}
    missing = {
        data if view == "single" else f"{data} {view}"
        for data in variants
        for view in ("single", "multi")
        if not all((f"{data}-{depth}", view) in VIEWS for depth in ("r50", "r101"))
    }
    without = {name for name in DATASETS if name not in {p.dataset.name for p in PAPERS.values()}}
    assert missing | without == set(WITHOUT)


def scored() -> list[tuple[str, str, str]]:
    return [
        (name, view, head)
        for name, view in VIEWS
        for head in expectation(PAPERS[name]).scores.get(view, {})
    ]


@pytest.mark.parametrize(("name", "view", "head"), scored())
def test_expected_scores_are_published_for_the_recipe(name: str, view: str, head: str) -> None:
    """A line of the file has the score and states nothing that the protocol does not have.

    But for what the protocol names: a deep stem, and epochs, whose steps another test computes.
    """
    assert head in HEADS
    text = expectation(PAPERS[name]).scores[view][head]
    parsed = re.fullmatch(r"(\d+\.\d+) mIoU \((.+)\)", text)
    assert parsed is not None
    origin, backbone, *_ = conditions = parsed[2].replace("dilated FCN, ", "").split(", ")
    assert backbone.split(" at ")[0].replace("ResNet-", "resnet") == PAPERS[name].backbone.name
    several = "multi-scale + flip" in conditions
    lines = [
        line
        for line in load_scores(ORIGINS[origin].file)
        if line.source.startswith(ORIGINS[origin].source)
        and METHODS.get(line.cells["method"]) == head
        and printed(line, several) == parsed[1]
        and departures(line, name, view, head) <= {"backbone.stem", "train.steps"}
    ]
    assert lines
    assert any((line.status == "unverified") == ("unconfirmed" in text) for line in lines)


def printed(line: PublishedScore, several: bool) -> str:
    cells = line.cells
    if several and "miou_ms_flip" in cells:
        return cells["miou_ms_flip"]
    return cells.get("miou", cells.get("value", ""))


def departures(line: PublishedScore, name: str, view: str, head: str) -> set[str]:
    """Keys for which the line states something else; epochs count only where they are the same."""
    content = {**PAPERS[name].seen(view), "head": {"head": head}}
    flat: dict[str, Any] = {key: value for key, (value, _) in differences(content, {}).items()}
    found = {fact.key for fact in facts_of(line, flat) if not fact.same and fact.key != "head.head"}
    length = line.cells.get("iterations_or_epochs", "")
    if length.endswith(" epochs") and int(length.split()[0]) != recipe_of(PAPERS[name]).epochs:
        return {*found, "epochs"}
    return found


@pytest.mark.parametrize(("name", "view"), VIEWS)
def test_conditions_of_expected_scores_are_those_of_the_view(name: str, view: str) -> None:
    protocol, config = PAPERS[name], PAPERS[name].view(view)
    for text in expectation(protocol).scores.get(view, {}).values():
        assert ("multi-scale + flip" in text) <= (len(config.scales) > 1)
        assert ("single scale" in text) <= (len(config.scales) == 1)
        assert ("windows" in text) <= (config.mode == "slide")
        steps = re.search(r"\b(\d+)k\b", text)
        assert steps is None or int(steps[1]) * 1000 == protocol.train.steps
        epochs = re.search(r"\b(\d+) epochs", text)
        assert epochs is None or int(epochs[1]) == recipe_of(protocol).epochs


def v100_hours(protocol: Protocol) -> float:
    """To train fcn: three passes a crop, at the published rate of passes of 1024 x 2048 pixels."""
    depth = protocol.backbone.name.removeprefix("resnet")
    row = refer(f"mmseg_published:method=FCN,backbone=R-{depth}-D8,crop=512x1024,iterations=40000")
    train = protocol.train
    pixels = train.steps * train.batch * train.crop[0] * train.crop[1]
    return 3 * pixels / (1024 * 2048 * float(row.cells["fps"])) / 3600


@pytest.mark.parametrize("name", PAPERS)
def test_expected_gpu_hours_follow_from_published_rates(name: str) -> None:
    hours = f"{v100_hours(PAPERS[name]):.0f}"
    expected = expectation(PAPERS[name])
    assert expected.gpu_hours == f"about {hours} to train fcn on a V100 in float32 (computed)"
    assert f" About {hours} to train fcn on a V100 in float32" in head_of_file(name)


def test_the_document_has_a_table_of_all_papers_protocols() -> None:
    table = "\n".join(table_lines())
    assert table in DOCUMENT.read_text("utf-8"), f"docs/protocols.md needs this table:\n{table}"


def test_the_document_gives_the_reasons_why_a_protocol_is_missing() -> None:
    text = " ".join(DOCUMENT.read_text("utf-8").split())
    assert [reason for reason in WITHOUT.values() if reason not in text] == []


def table_lines() -> list[str]:
    """One row for each recipe, with the scores of its views."""
    header = (
        "| protocol | recipe of | lr | batch | crop | steps | scored | published mIoU, % | V100 h |"
    )
    return [header, "|---|---|---:|---:|---|---:|---|---|---:|", *map(row, PAPERS)]


def row(name: str) -> str:
    protocol = PAPERS[name]
    train, views = protocol.train, list(protocol.evaluate)
    several = "" if views == ["single"] else f", {' and '.join(views)}"
    cells = (
        f"`{name}`",
        recipe_name(protocol),
        f"{train.lr:g}",
        str(train.batch),
        f"{train.crop[0]} x {train.crop[1]}",
        f"{train.steps:,}",
        ("windows" if protocol.view().mode == "slide" else "whole") + several,
        "; ".join(score_range(protocol, view) for view in views),
        f"{v100_hours(protocol):.0f}",
    )
    return f"| {' | '.join(cells)} |"


def score_range(protocol: Protocol, view: str) -> str:
    values = [text.split()[0] for text in expectation(protocol).scores.get(view, {}).values()]
    ends = sorted({min(values, key=float), max(values, key=float)}, key=float) if values else ["–"]
    return " to ".join(ends)
