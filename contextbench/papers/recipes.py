"""What a line of published scores states of its recipe, beside what a run has there.

A line states what its columns hold and no more; whatever else the paper or the code base did is
not known here. Names of methods, datasets and backbones are those of the files in
`published_folder()`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contextbench.papers.published import PublishedScore

Recipe = Mapping[str, Any]  # dotted key of a protocol or `head.head` -> value

METHODS: Mapping[str, str] = {
    "FCN": "fcn",
    "Dilated FCN": "fcn",
    "ResNet-101 baseline": "fcn",
    "PSPNet": "ppm",
    "PPM": "ppm",
    "PSP (PPM)": "ppm",
    "DeepLabV3": "aspp",
    "ASPP": "aspp",
    "EncNet": "encnet",
    "base-OC": "ocnet",
    "Self-Attention": "ocnet",
    "pyramid-OC": "pyramid_oc",
    "ASP-OC": "asp_oc",
    "OCR": "ocr",
    "OCRNet": "ocr",
    "OCR (Fast base-OC)": "ocr",
    "ASP-OCR": "asp_ocr",
    "ASP-OCR (Fast ASP-OC)": "asp_ocr",
    "ISA": "isa",
    "ISANet": "isa",
    "DANet": "danet",
    "CCNet": "ccnet",
    "Double Attention": "double_attention",
    "NonLocal": "non_local",
    "DNLNet": "dnlnet",
    "GCNet": "gcnet",
    "EMANet": "emanet",
    "DeepLabV3+": "deeplabv3plus",
    "UPerNet": "upernet",
}
"""The registered head that is nearest to a published method; layers and widths may still differ."""

# Published name -> name of the dataset here, and what its keys must be.
DATASETS: Mapping[str, tuple[str, Recipe]] = {
    "Cityscapes": ("cityscapes", {}),
    "ADE20K": ("ade20k", {}),
    "VOC12aug": ("voc", {"dataset.train": "train_aug"}),
    "PASCAL VOC 2012": ("voc", {}),
    "PASCAL Context": ("pascal_context", {}),
    "PASCAL Context 59": ("pascal_context", {"dataset.options.classes": 59}),
    "PASCAL Context 60": ("pascal_context", {"dataset.options.classes": 60}),
    "COCO-Stuff": ("coco_stuff", {"dataset.options.release": "10k"}),
    "COCO-Stuff 10k": ("coco_stuff", {"dataset.options.release": "10k"}),
    "COCO-Stuff 164k": ("coco_stuff", {"dataset.options.release": "164k"}),
    "LIP": ("lip", {}),
    "CamVid": ("camvid", {}),
}
ONE_EVALUATED_SPLIT = ("pascal_context", "coco_stuff")
"""Datasets with one split besides the training set, which some call val and others test."""

RESNET = re.compile(r"(?:R|ResNet)-(?P<depth>\d+)s?(?:-(?:D|OS)(?P<stride>\d+))?(?P<more>.*)")
YES = {"yes": True, "no": False}


@dataclass(frozen=True)
class Fact:
    """One thing that a line states. `same` is False too where the two cannot be compared."""

    key: str
    run: Any
    published: str
    same: bool


def facts_of(score: PublishedScore, recipe: Recipe) -> list[Fact]:
    """Everything that `score` states of the recipe, in the order of a protocol file."""
    stated = [
        *_dataset(score, recipe),
        *_backbone(score, recipe),
        *_training(score, recipe),
        *_evaluation(score, recipe),
        *_method(score, recipe),
    ]
    return [fact for fact in stated if fact.published]


def score_for(score: PublishedScore, recipe: Recipe) -> float | None:
    """The published mIoU, a fraction: with several views, if the run has them and the line too."""
    text = score.cells.get("miou_ms_flip", "")
    if _several_views(recipe) and text:
        return round(float(text) / 100, 6)
    return score.miou


def _dataset(score: PublishedScore, recipe: Recipe) -> list[Fact]:
    name, needed = DATASETS.get(score.dataset, ("", {}))
    own = recipe.get("dataset.name")
    classes = score.cells.get("classes", "")
    if name == "pascal_context" and classes.isdecimal():
        needed = {**needed, "dataset.options.classes": int(classes)}
    published = f"{score.dataset} ({classes} classes)" if classes else score.dataset
    options = [str(v) for k, v in recipe.items() if k.startswith("dataset.options.")]
    own_text = f"{own} ({', '.join(options)})" if options else own
    same = own == name and all(recipe.get(key) == value for key, value in needed.items())
    facts = [Fact("dataset.name", own_text, published, same)]
    evaluated, trained = recipe.get("dataset.evaluate"), recipe.get("dataset.train")
    split, train_set = score.cells.get("split", ""), score.cells.get("train_set", "")
    one_split = own in ONE_EVALUATED_SPLIT and {str(evaluated), split} <= {"val", "test"}
    # An augmented training set is part of the dataset's published name.
    same_set = str(trained).removesuffix("_aug") == train_set.replace("+", "")
    facts.append(Fact("dataset.evaluate", evaluated, split, one_split or evaluated == split))
    facts.append(Fact("dataset.train", trained, train_set, same_set))
    return facts


def _backbone(score: PublishedScore, recipe: Recipe) -> list[Fact]:
    match = RESNET.fullmatch(score.backbone)
    own, stride = recipe.get("backbone.name"), recipe.get("backbone.output_stride")
    if match is None:
        return [Fact("backbone.name", own, score.backbone, False)]
    same = own == f"resnet{match['depth']}"
    facts = [Fact("backbone.name", own, score.backbone, same)]
    if match["stride"]:
        published = f"{match['stride']} ({score.backbone})"
        facts.append(
            Fact("backbone.output_stride", stride, published, str(stride) == match["stride"])
        )
    if "deep stem" in match["more"]:
        stem = recipe.get("backbone.stem")
        facts.append(Fact("backbone.stem", stem, "deep", stem in ("deep", "deep_wide")))
    return facts


def _training(score: PublishedScore, recipe: Recipe) -> list[Fact]:
    cells = score.cells
    crop = recipe.get("train.crop")
    own_crop = "x".join(map(str, crop)) if isinstance(crop, list) else ""
    steps = cells.get("iterations", cells.get("iterations_or_epochs", ""))
    batch, own_batch = cells.get("batch_size", ""), recipe.get("train.batch")
    own_steps, ohem = recipe.get("train.steps"), recipe.get("train.loss.ohem")
    has_ohem = ohem is not None or "train.loss.ohem.threshold" in recipe
    stated = cells.get("ohem", "")
    return [
        Fact("train.crop", crop, cells.get("crop", ""), cells.get("crop") == own_crop),
        Fact("train.steps", own_steps, steps, steps == str(own_steps)),
        Fact("train.batch", own_batch, batch, batch == str(own_batch)),
        Fact("train.loss.ohem", has_ohem, stated, YES.get(stated) is has_ohem),
    ]


def _evaluation(score: PublishedScore, recipe: Recipe) -> list[Fact]:
    cells, scales = score.cells, recipe.get("evaluate.scales", [])
    several, flip = len(scales) > 1, bool(recipe.get("evaluate.flip"))
    multi_scale = cells.get("multi_scale", cells.get("multi_size_eval", ""))
    mirrored = cells.get("flip", "")
    if "miou_ms_flip" in cells:  # two scores a line: one view, or several scales with flip
        both = "yes" if _several_views(recipe) and cells["miou_ms_flip"] else "no"
        multi_scale = mirrored = both
    text = {"yes": "several", "no": "[1.0]"}.get(multi_scale, multi_scale)
    same_scales = several if multi_scale == "yes" else multi_scale == "no" and scales == [1.0]
    return [
        Fact("evaluate.scales", scales, text, same_scales),
        Fact("evaluate.flip", flip, mirrored, YES.get(mirrored) is flip),
    ]


def _method(score: PublishedScore, recipe: Recipe) -> list[Fact]:
    method, own = score.cells.get("method", ""), recipe.get("head.head")
    return [Fact("head.head", own, method, METHODS.get(method) == own)]


def _several_views(recipe: Recipe) -> bool:
    return len(recipe.get("evaluate.scales", [])) > 1 or bool(recipe.get("evaluate.flip"))
