"""Speed that the project promises. Other load changes seconds, so neither CI nor the default suite:

make test ARGS="-m timing -s"
"""

import statistics
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from contextbench.config.evaluation import CorruptConfig, EvaluateConfig
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import Protocol, overridden
from contextbench.data.base import LabelSet
from contextbench.data.generated import GeneratedDataset
from contextbench.data.part import Part
from contextbench.data.probe import ContextProbe
from contextbench.evaluation.corruption import STRENGTHS, corrupted
from contextbench.evaluation.counters import Seen, count
from contextbench.evaluation.counting import confusion_table, count_areas, evaluate
from contextbench.evaluation.prediction import Predictor, predict_labels
from contextbench.measure.choose import DEFAULT
from contextbench.measure.passes import Workload
from contextbench.measure.profile import choose_for
from contextbench.models.build import build_model
from contextbench.models.precision import Precision
from contextbench.models.segmenter import resize_logits
from contextbench.system.console import Reporter
from contextbench.system.interrupt import StopRequest
from contextbench.training.losses import pixel_cross_entropy

pytestmark = [pytest.mark.timing, pytest.mark.timeout(1200)]

CLASSES = 19
FCN = HeadConfig(name="fcn", head="fcn")
CPU = torch.device("cpu")


def protocol(backbone, crop=(160, 240), batch=2):
    return Protocol.model_validate(
        {
            "name": "speed",
            "dataset": {"name": "probe"},
            "backbone": {"name": backbone},
            "train": {"crop": crop, "batch": batch, "steps": 1, "lr": 0.01},
        }
    )


def seconds(call, repeats):
    """Median of `repeats` runs after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def test_counting_reaches_300_megapixels_per_second():
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, CLASSES, (2, 64, 128), generator=generator, dtype=torch.uint8)
    prediction, labels = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    labels = torch.where(labels == 3, 255, labels).to(torch.uint8)
    rate = labels.numel() / seconds(lambda: count_areas(prediction, labels, CLASSES), 20) / 1e6
    print(f"\ncounting: {rate:.0f} megapixels/s at 1024x2048, {CLASSES} classes")
    assert rate >= 300


def test_what_views_count_besides_takes_less_than_a_second_an_image():
    """Each on its own, as a multiple of counting the pixels of classes."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, CLASSES, (2, 64, 128), generator=generator, dtype=torch.uint8)
    prediction, labels = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    sure = torch.rand(labels.shape, generator=generator)
    image = torch.stack([labels] * 3)
    table = confusion_table(prediction, labels, CLASSES)
    plain = seconds(lambda: count_areas(prediction, labels, CLASSES), 9)
    costs = {}
    for name, value in (("confusion", True), ("calibration", True), ("boundary", True),
                        ("trimap", True)):  # fmt: skip
        config = EvaluateConfig.model_validate({name: value})
        seen = Seen(table, prediction, labels, sure, config)
        costs[name] = seconds(lambda n=name, s=seen: count(n, s).nonzero(), 5)
    for kind in STRENGTHS:
        worse = CorruptConfig(kind=kind, strength=3)
        costs[kind] = seconds(lambda c=worse: corrupted(image, c, "a"), 3)
    print(f"\ncounting: {1000 * plain:.1f} ms")
    for name, took in costs.items():
        print(f"{name}: {1000 * took:.1f} ms, {took / plain:.1f} times that")
    assert max(costs.values()) < 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_evaluation_adds_at_most_a_tenth_to_the_forward_pass(dtype):
    precision = Precision(dtype, "channels_last")
    model = build_model(protocol("resnet50"), FCN, CLASSES, seed=0)
    model = model.to(memory_format=torch.channels_last).eval()
    images = torch.randn(1, 3, 512, 1024).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (512, 1024), dtype=torch.uint8)
    with torch.inference_mode(), precision.autocast(torch.device("cpu")):
        model(images)
        forward, whole = [], []
        for _ in range(5):  # interleaved, so that a drift of the machine's speed touches both
            forward.append(_once(lambda: model(images)))
            whole.append(_once(lambda: _evaluate(model, images, labels)))
    added = statistics.median(w - f for w, f in zip(whole, forward, strict=True))
    share = added / statistics.median(forward)
    print(f"\n{dtype}: forward {statistics.median(forward):.2f} s, evaluation adds {share:.1%}")
    assert share <= 0.10


def _evaluate(model, images, labels):
    count_areas(predict_labels([model], images, (512, 1024))[0], labels, CLASSES)


def _beside(backbone, width, config, images, rounds, folder):
    """Seconds of ways to score generated PNGs of 1024 x 2048, the fastest of interleaved rounds.

    `passes` are the model's alone, of images that are there already, and `reading` is that alone.
    """
    small = overridden(protocol(backbone), [f"backbone.width={width}"])
    model = build_model(small, FCN, CLASSES, seed=0).to(memory_format=torch.channels_last).eval()
    labels = LabelSet(tuple(map(str, range(CLASSES))), ((0, 0, 0),) * CLASSES)
    split = Part(GeneratedDataset(folder, labels, (1024, 2048)), images)
    applied = Predictor([model], CPU, Precision("float32", "channels_last"), config)
    there = [applied._prepared(split[index].image[None]) for index in range(images)]
    ways = {
        "passes": lambda: _passes(model, there, config.window or (1024, 2048)),
        "reading": lambda: [split[index] for index in range(images)],
        "in turn": lambda: _in_turn(applied, split),
        "ahead, by a thread": lambda: evaluate(applied, split),
        "ahead, by a worker": lambda: evaluate(applied, split, workers=1),
    }
    times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(_once(way))
    found = {name: min(each) for name, each in times.items()}
    print(f"\n{torch.get_num_threads()} threads; {images} images: passes {found['passes']:.2f} s")
    for name, took in found.items():
        print(f"{name}: {took / found['passes']:.3f} of the passes")
    return found


def test_evaluating_a_split_is_bound_by_the_model(tmp_path):
    """ResNet-50 in windows, as Cityscapes is scored."""
    config = EvaluateConfig(mode="slide", window=(512, 1024), stride=(512, 1024))
    found = _beside("resnet50", 64, config, 2, 2, tmp_path)
    assert found["ahead, by a thread"] <= 1.10 * found["passes"]
    assert found["ahead, by a worker"] <= 1.10 * found["passes"]


def test_reading_goes_beside_a_model_that_is_as_fast(tmp_path):
    """It needs a core of its own: what a small model takes, and reading, are not added up."""
    found = _beside("resnet10", 8, EvaluateConfig(), 8, 4, tmp_path)
    scoring = found["in turn"] - found["reading"]
    assert found["ahead, by a thread"] < found["in turn"] - 0.5 * min(scoring, found["reading"])


@torch.inference_mode()
def _passes(model, images, window):
    """The forward passes of all windows, which do not overlap."""
    for image in images:
        for top in range(0, 1024, window[0]):
            for left in range(0, 2048, window[1]):
                model(image[..., top : top + window[0], left : left + window[1]])


def _in_turn(applied, split):
    """Reading each image only when the one before it is counted."""
    for index in range(len(split)):
        _, image, labels = split[index]
        [(prediction, _)] = applied.scored(image, labels, each=False)
        count_areas(prediction, labels, CLASSES)


def _once(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@pytest.mark.parametrize("shape", [(8, 13, 24, 24), (2, 19, 64, 64)], ids=["probe", "cityscapes"])
def test_the_loss_of_channels_last_logits_takes_less_than_over_strided_classes(shape):
    """Forward and backward, with the resizing by 8 that both do, in turn."""
    side = 8 * shape[2]
    labels = torch.randint(0, shape[1], (shape[0], side, side))
    made = torch.randn(shape).contiguous(memory_format=torch.channels_last)

    def strided(logits):
        return F.cross_entropy(resize_logits(logits, (side, side)), labels)

    def passed(loss):
        loss(made.detach().requires_grad_()).backward()

    rows = partial(pixel_cross_entropy, labels=labels)
    pairs = [[seconds(partial(passed, loss), 1) for loss in (rows, strided)] for _ in range(9)]
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"{shape}: {1e3 * ours:.0f} ms, strided {1e3 * theirs:.0f}")
    assert ours < 0.9 * theirs


@pytest.mark.parametrize("backbone", ["resnet10", "resnet18", "resnet50"])
def test_auto_precision_is_never_slower_than_the_default(backbone):
    work = Workload(protocol(backbone), CLASSES, (160, 240), None)
    choice = choose_for(work, [FCN], torch.device("cpu"), Reporter(), StopRequest())
    label = f"{choice.chosen.dtype} {choice.chosen.memory_format}"
    best = {name: min(steps["fcn"]) for name, steps in choice.samples.items() if steps}
    gain = best[DEFAULT] / best[label]
    print(f"\n{backbone}: auto takes {label}, {gain:.2f} times the speed of {DEFAULT}; ms: {best}")
    assert gain >= 1
    if backbone == "resnet50":
        assert gain >= 2


def test_imports_are_quick():
    help_command = ["-m", "contextbench", "--help"]
    for arguments, limit in ((["-c", "import contextbench"], 0.2), (help_command, 0.7)):
        command = [sys.executable, *arguments]
        took = seconds(lambda c=command: subprocess.run(c, check=True, capture_output=True), 5)
        print(f"\n{' '.join(command[1:])}: {took:.2f} s")
        assert took < limit


def test_a_probe_image_is_drawn_in_a_few_milliseconds():
    dataset = ContextProbe(length=50, size=(192, 192), seed=0)
    took = seconds(lambda: [dataset[index] for index in range(50)], 3) / 50
    print(f"\nprobe: {1000 * took:.1f} ms an image of 192x192")
    assert took < 0.008
