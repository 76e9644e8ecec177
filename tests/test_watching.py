"""Watching a training tells how it goes and changes nothing; `keep: best` ends with its best."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from contextbench.config.files import ConfigError
from contextbench.config.protocols import Protocol
from contextbench.data import Facts, LabelSet
from contextbench.data.part import Part
from contextbench.evaluation import counting
from contextbench.evaluation.counting import evaluate
from contextbench.models.build import build_model, loss_weights
from contextbench.models.precision import Precision
from contextbench.models.segmenter import Segmenter
from contextbench.records.classes import ClassTotals
from contextbench.records.failures import Failure
from contextbench.records.history import read_history
from contextbench.records.runs import RunRecord, read_run
from contextbench.records.stored import RecordError
from contextbench.records.watched import Watched, read_watched, write_watched
from contextbench.runs.cells import Cell, open_setting
from contextbench.runs.grid import run_grid
from contextbench.runs.watching import check_watch
from contextbench.statistics.scores import watched_miou
from contextbench.system.files import digest_of
from contextbench.system.interrupt import Interrupted, StopRequest
from contextbench.training import loop
from contextbench.training.resume import Progress, read_state
from contextbench.training.watching import Best, Watch, said
from heads import HEADS
from tests import small
from tests.cases import quick

CLASSES = 13  # of the probe
RUN = Path("tiny", "fcn", "seed-0")
WATCH = {"every": 2, "images": 3}


def run(protocol: Protocol, out: Path, *names: str, **options: Any) -> list[RunRecord]:
    heads = [small.head(name) for name in names or ("fcn",)]
    setting, execution = open_setting(protocol, None), options.pop("execution", None)
    where = execution or small.execution(out)
    return run_grid(setting, heads, [0], Precision(), where, **options)


def frozen(protocol: Protocol) -> Protocol:
    return protocol.model_copy(update={"shared_backbone": "frozen"})


def curve(folder: Path) -> list[Watched]:
    return read_watched(folder / "watch.jsonl", CLASSES)


def without_seconds(entries: Sequence[Watched]) -> list[dict[str, Any]]:
    return [entry.model_dump(exclude={"seconds"}) for entry in entries]


def assert_same_training(folder: Path, other: Path) -> None:
    """Weights to the byte, losses and counts."""
    one, two = (read_run(each / "record.json") for each in (folder, other))
    assert (one.status, one.totals, one.fingerprint) == ("done", two.totals, two.fingerprint)
    name = "checkpoint.safetensors"
    assert digest_of(folder / name) == digest_of(other / name)
    assert read_history(folder / "history.jsonl") == read_history(other / "history.jsonl")


class Random(nn.Module):
    """Draws while it evaluates, as no head should: the generator moves on."""

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else x + 1e-3 * torch.rand_like(x)


@pytest.mark.parametrize(
    "train",
    [
        {},
        {"ema": 0.5, "accumulate": 2, "clip_norm": 0.5},
        {"optimizer": "adamw", "batch_norm": "frozen"},
    ],
)
def test_watching_changes_no_bit(tmp_path: Path, train: dict[str, Any]) -> None:
    """Batch norms count images in training only; the dropout of each step is seeded by itself."""
    run(small.protocol(**train), tmp_path / "plain")
    run(small.protocol(**train, watch=WATCH), tmp_path / "watched")
    assert_same_training(tmp_path / "watched" / RUN, tmp_path / "plain" / RUN)
    assert [entry.step for entry in curve(tmp_path / "watched" / RUN)] == [2, 4]
    assert not (tmp_path / "plain" / RUN / "watch.jsonl").exists()


def trained(name: str, watched: bool, steps: int = 3, noisy: bool = False) -> dict[str, Tensor]:
    """Weights of a head after some steps, each of them watched or none."""
    protocol = small.protocol(steps=steps)
    model = build_model(protocol, small.head(name), CLASSES, seed=0)
    if noisy:
        model.head.context = nn.Sequential(model.head.context, Random())
    setting = open_setting(protocol, None)
    cell = Cell(setting, small.head(name), 0, Precision())
    counted = []

    def count(models: Sequence[Segmenter]) -> list[ClassTotals]:
        part = Part(setting.evaluate_set, 1)
        counted.append(evaluate(cell.predictor(models, torch.device("cpu")), part))
        return [counted[-1].totals()]

    config = small.protocol(watch={"every": 1, "images": 1}).train.watch
    assert config is not None
    recipe = loop.Recipe(
        config=protocol.train,
        loss_weights=loss_weights(model, small.head(name)),
        precision=Precision(),
        device=torch.device("cpu"),
        seed=0,
        identity={"run": name},
        watch=Watch(config, "val", steps, count) if watched else None,
    )
    generator = torch.Generator().manual_seed(0)
    batches = [
        (
            torch.randn(2, 3, 64, 64, generator=generator),
            torch.randint(0, CLASSES, (2, 64, 64), generator=generator),
        )
        for _ in range(steps)
    ]
    loop.train(model, lambda start: iter(batches[start:]), recipe)
    assert len(counted) == (steps if watched else 0)
    return model.state_dict()


@pytest.mark.parametrize("name", quick(HEADS, ("fcn", "encnet", "ocr", "emanet")))
def test_no_head_keeps_anything_of_being_watched(name: str) -> None:
    """Such as a tensor that it made in inference mode: the next step would fail."""
    plain, watched = (trained(name, each, steps=2) for each in (False, True))
    assert all(torch.equal(plain[key], watched[key]) for key in plain)


def test_random_numbers_of_steps_do_not_depend_on_those_of_watching() -> None:
    plain, watched = (trained("fcn", each, noisy=True) for each in (False, True))
    assert all(torch.equal(plain[key], watched[key]) for key in plain)


@pytest.mark.parametrize("average", [None, 0.5])
def test_the_last_watched_scores_are_those_of_the_run(
    tmp_path: Path, average: float | None
) -> None:
    """All images of the split, and the weights that the run ends with: averaged ones if it does."""
    [record] = run(small.protocol(watch=WATCH, ema=average), tmp_path)
    first, last = curve(tmp_path / RUN)
    assert last.totals == record.totals
    assert first.totals != last.totals
    assert record.watch_seconds is not None
    assert record.watch_seconds == pytest.approx(first.seconds + last.seconds)
    assert record.kept is None


def test_the_part_is_spread_over_the_split() -> None:
    dataset = open_setting(small.protocol(), None).train_set
    part = Part(dataset, 3)
    assert [sample.name for sample in (part[i] for i in range(len(part)))] == [
        dataset[i * len(dataset) // 3].name for i in range(3)
    ]
    assert part.image_size(2) == (64, 64)
    assert Part(dataset, 2).fingerprint() != part.fingerprint()


@pytest.mark.parametrize(("steps", "every", "expected"), [(4, 2, [2, 4]), (5, 2, [2, 4, 5]),
                                                          (3, 9, [3])])  # fmt: skip
def test_each_so_many_steps_and_the_last_one_are_watched(
    steps: int, every: int, expected: list[int]
) -> None:
    config = small.protocol(watch={"every": every, "images": 1}).train.watch
    assert config is not None
    watch = Watch(config, "val", steps, lambda _: [])
    progress, seen = Progress(), []
    for progress.step in range(steps + 1):
        if watch.due(progress):
            seen.append(progress.step)
            progress.watched.append(watched(progress.step, 1))
            assert not watch.due(progress)
    assert seen == expected


def watched(step: int, correct: int, **changes: Any) -> Watched:
    """Of ten pixels of class 0 so many are right; the others are taken for class 1."""
    totals = ClassTotals(
        intersection=[correct, 0], predicted=[correct, 10 - correct], labelled=[10, 0]
    )
    content = {"step": step, "split": "val", "images": 1, "seconds": 0.0, "totals": totals}
    return Watched.model_validate({**content, **changes})


def test_of_equal_scores_the_earlier_step_is_kept() -> None:
    part, best = nn.Linear(1, 1), Best()
    for step, correct in enumerate([3, 7, 7, 5], 1):
        nn.init.constant_(part.weight, step)
        best.offer(watched(step, correct), part)
    assert best.kept is not None
    assert best.kept.step == 2
    assert best.weights is not None
    assert best.weights["weight"].item() == 2
    assert best.weights["weight"].data_ptr() != part.weight.data_ptr()


def test_what_has_no_score_is_not_kept() -> None:
    part, best = nn.Linear(1, 1), Best()
    failed = watched(1, 0, totals=None, failure=Failure(kind="E", message="no"))
    empty = watched(2, 0, totals=ClassTotals(intersection=[0], predicted=[0], labelled=[0]))
    for entry in (failed, empty):
        assert math.isnan(watched_miou(entry))
        best.offer(entry, part)
    assert best.kept is None
    best.offer(watched(3, 1), part)
    assert best.kept is not None


def best_protocol(**train: Any) -> Protocol:
    return small.protocol(
        **{"watch": {**WATCH, "every": 1, "split": "train"}, "keep": "best", **train}
    )


def weights_after(protocol: Protocol, steps: int, out: Path) -> dict[str, Tensor]:
    """Those that a run ends with which is stopped after so many of its steps."""
    folder = out / "stopped"
    shutil.rmtree(folder, ignore_errors=True)
    stop = StopRequest()
    real = loop.train_step
    done: list[int] = []

    def step(*arguments: Any) -> Any:
        done.append(1)
        stop.requested = len(done) == steps
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", step)
        with pytest.raises(Interrupted):
            run(protocol, folder, execution=small.execution(folder, stop))
    state = read_state(folder / RUN / "resume.pt")
    assert state is not None
    assert state["step"] == steps
    return dict(state["model"])


def scripted(monkeypatch: pytest.MonkeyPatch, scores: Sequence[int]) -> None:
    """Let so many of ten pixels be right in the watched steps, one after another."""
    coming = iter(scores)
    counts = [0] * (CLASSES - 2)

    def found(self: Watch, models: Sequence[Segmenter], step: int) -> list[Watched]:
        entries = []
        for _ in models:
            right = next(coming)
            totals = ClassTotals(
                intersection=[right, 0, *counts],
                predicted=[right, 10 - right, *counts],
                labelled=[10, 0, *counts],
            )
            entries.append(self._entry(step, 0.0, totals=totals))
        return entries

    monkeypatch.setattr(Watch, "found", found)


@pytest.mark.parametrize("scores", [(3, 8, 8, 5), (9, 1, 1, 1)])
def test_a_run_that_keeps_the_best_ends_with_the_weights_of_that_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: tuple[int, ...]
) -> None:
    best = scores.index(max(scores)) + 1
    expected = weights_after(small.protocol(), best, tmp_path)
    scripted(monkeypatch, scores)
    [record] = run(best_protocol(), tmp_path / "best")
    assert (record.status, record.steps) == ("done", 4)
    assert record.kept is not None
    assert (record.kept.step, record.kept.split, record.kept.images) == (best, "train", 3)
    found = load_file(tmp_path / "best" / RUN / "checkpoint.safetensors")
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def stopped_while_watching(
    protocol: Protocol, out: Path, number: int, *names: str, images: int = 1
) -> None:
    """A run whose stop request comes while an image of the watched step of that number is seen."""
    stop, seen = StopRequest(), [0]
    real = counting._evaluate_images

    def evaluate_images(predictor: Any, dataset: Any, indices: Any, show: Any, **options: Any):
        seen[0] += isinstance(dataset, Part)

        def told(done: int) -> None:
            stop.requested = seen[0] == number and done == images
            assert not (stop.requested and done > images), "another image is seen"
            show(done)

        return real(predictor, dataset, indices, told, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_evaluate_images", evaluate_images)
        with pytest.raises(Interrupted):
            run(protocol, out, *names, execution=small.execution(out, stop))


@pytest.mark.parametrize("number", quick([1, 2], [2]))
def test_a_stop_while_watching_comes_at_once_and_leaves_no_gap(tmp_path: Path, number: int) -> None:
    """Counted are losses, curve and kept weights of an undisturbed run; no step is done again."""
    protocol = best_protocol(watch={**WATCH, "split": "train"}, ema=0.5)
    run(protocol, tmp_path / "plain")
    stopped_while_watching(protocol, tmp_path / "stopped", number)
    record = read_run(tmp_path / "stopped" / RUN / "record.json")
    assert (record.status, record.steps) == ("interrupted", 2 * number)
    assert len(curve_so_far(tmp_path / "stopped" / RUN)) == number - 1
    [record] = run(protocol, tmp_path / "stopped")
    assert [(leg.first_step, leg.last_step) for leg in record.legs] == [
        (0, 2 * number),
        (2 * number, 4),
    ]
    folders = tmp_path / "stopped" / RUN, tmp_path / "plain" / RUN
    assert_same_training(*folders)
    assert without_seconds(curve(folders[0])) == without_seconds(curve(folders[1]))
    kept = [read_run(each / "record.json").kept for each in folders]
    assert kept[0] is not None
    assert kept[1] is not None
    assert without_seconds([kept[0]]) == without_seconds([kept[1]])
    assert record.watch_seconds == pytest.approx(sum(e.seconds for e in curve(folders[0])))


def curve_so_far(folder: Path) -> list[Watched]:
    path = folder / "watch.jsonl"
    return curve(folder) if path.exists() else []


def test_a_run_goes_on_with_another_watch_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No number of the run depends on it; the curve has one part only."""
    run(small.protocol(), tmp_path / "plain")
    stopped_while_watching(small.protocol(watch={**WATCH, "every": 1}), tmp_path / "other", 3)
    run(small.protocol(watch={"every": 4, "images": 2}), tmp_path / "other")
    folder = tmp_path / "other" / RUN
    assert_same_training(folder, tmp_path / "plain" / RUN)
    assert [(entry.step, entry.images) for entry in curve(folder)] == [(4, 2)]
    assert "train.watch was on 3 images of val until step 3, is on 2 of val" in caplog.text


def test_an_image_that_cannot_be_counted_is_told_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_part: Part, _index: int) -> None:
        raise torch.OutOfMemoryError("no memory for 3 TiB")

    run(small.protocol(), tmp_path / "plain")
    monkeypatch.setattr(Part, "__getitem__", broken)
    [record] = run(small.protocol(watch=WATCH), tmp_path / "watched")
    assert_same_training(tmp_path / "watched" / RUN, tmp_path / "plain" / RUN)
    reasons = [
        entry.failure and entry.failure.message for entry in curve(tmp_path / "watched" / RUN)
    ]
    assert reasons == ["no memory for 3 TiB"] * 2
    [record] = run(best_protocol(), tmp_path / "best")
    assert record.failure is not None
    assert record.failure.message == (
        "train.keep: best, and no watched step has a score: no memory for 3 TiB"
    )
    assert (tmp_path / "best" / RUN / "resume.pt").exists()


def test_seconds_of_watching_are_in_no_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock on which counting takes 1000 seconds and nothing else takes any."""
    now = [0.0]
    for module in ("loop", "watching"):
        clock = SimpleNamespace(monotonic=lambda: now[0])
        monkeypatch.setattr(f"contextbench.training.{module}.time", clock)
    real = counting._evaluate_images

    def slow(*arguments: Any, **options: Any) -> Any:
        now[0] += 1000
        return real(*arguments, **options)

    monkeypatch.setattr(counting, "_evaluate_images", slow)
    [record] = run(small.protocol(watch=WATCH), tmp_path)
    assert record.watch_seconds == 2000
    assert record.train_seconds == 0


def test_heads_on_one_backbone_are_watched_at_once_with_the_scores_of_each_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol, names = frozen(best_protocol(ema=0.5)), ("fcn", "ocr")
    backbones: list[int] = []
    real = counting.evaluate_each
    monkeypatch.setattr(
        "contextbench.runs.watching.evaluate_each",
        lambda predictor, *a, **o: backbones.append(1) or real(predictor, *a, **o),
    )
    run(protocol, tmp_path / "together", *names)
    assert len(backbones) == 4  # one pass for both heads after each step
    for name in names:
        run(protocol, tmp_path / "alone", name)
        folders = [tmp_path / out / "tiny" / name / "seed-0" for out in ("together", "alone")]
        assert_same_training(*folders)
        one, two = (without_seconds(curve(folder)) for folder in folders)
        assert one == two
    run(frozen(small.protocol(ema=0.5)), tmp_path / "plain", *names)
    last = frozen(small.protocol(ema=0.5, watch=WATCH))
    run(last, tmp_path / "watched", *names)
    for name in names:
        places = [tmp_path / out / "tiny" / name / "seed-0" for out in ("plain", "watched")]
        assert_same_training(*places)


@pytest.mark.slow
def test_heads_on_one_backbone_go_on_where_a_stop_met_them_watching(tmp_path: Path) -> None:
    protocol, names = frozen(small.protocol(watch=WATCH)), ("fcn", "ppm")
    run(protocol, tmp_path / "plain", *names)
    stopped_while_watching(protocol, tmp_path / "stopped", 2, *names)
    run(protocol, tmp_path / "stopped", *names)
    for name in names:
        places = [tmp_path / out / "tiny" / name / "seed-0" for out in ("stopped", "plain")]
        assert_same_training(*places)
        assert without_seconds(curve(places[0])) == without_seconds(curve(places[1]))


def test_a_head_that_cannot_be_counted_leaves_the_scores_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = HEADS["ppm"].forward

    def forward(self: Any, features: Any) -> Any:
        output = real(self, features)
        return output if self.training else output._replace(logits=output.logits * torch.nan)

    monkeypatch.setattr(HEADS["ppm"], "forward", forward)
    run(frozen(small.protocol(watch=WATCH)), tmp_path, "fcn", "ppm")
    failed, found = (curve(tmp_path / "tiny" / name / "seed-0") for name in ("ppm", "fcn"))
    assert [entry.failure is None for entry in (*failed, *found)] == [False, False, True, True]


def test_the_line_of_progress_has_the_last_score() -> None:
    one, two = Progress(watched=[watched(1, 10), watched(2, 8)]), Progress(watched=[watched(2, 6)])
    # IoU of class 0 is 8 / 10; class 1 is predicted and nowhere labelled, so it is left out.
    assert said([one]) == ", watched mIoU 80.0 % at step 2"
    assert said([one, two]) == ", watched mIoU 60.0 to 80.0 % at step 2"
    assert said([Progress()]) == ""


def test_watching_is_in_the_fingerprint_only_where_it_chooses_weights() -> None:
    plain, other = small.protocol(), small.protocol(watch=WATCH)
    assert plain.fingerprint("") == other.fingerprint("")
    best = [best_protocol().fingerprint(""), best_protocol(watch={**WATCH, "split": "train"})]
    assert len({plain.fingerprint(""), best[0], best[1].fingerprint("")}) == 3  # type: ignore[union-attr]


def test_the_data_that_choose_weights_are_part_of_a_run() -> None:
    last = open_setting(best_protocol(keep="last"), None)
    best = open_setting(best_protocol(), None)
    watched_set = best.watched
    assert watched_set is not None
    assert best.dataset_fingerprint == (
        f"{last.dataset_fingerprint}/{watched_set.whole.fingerprint()}"
    )


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"watch": {"every": 0, "images": 1}}, r"watch\.every\s+.*greater than or equal to 1"),
        ({"watch": {"every": 1, "images": 0}}, r"watch\.images\s+.*greater than or equal to 1"),
        ({"keep": "best"}, r"keep: best is that of the watched scores, and watch is not set"),
        ({"keep": "first"}, r"train\.keep\s+.*'last' or 'best'"),
    ],
)
def test_what_cannot_be_watched_is_no_protocol(train: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small.protocol(**train)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            {"watch": {"every": 1, "images": 4}},
            r"train\.watch\.images 4: the split 'val' of .* has 3 images; allowed: 1 \.\. 3",
        ),
        (
            {"watch": {"every": 1, "images": 1, "split": "tset"}},
            r"train\.watch\.split 'tset': .* no such split .*did you mean 'test'",
        ),
        (
            {"watch": {"every": 1, "images": 1}, "keep": "best"},
            r"train\.keep: best .*'val' \(train\.watch\.split\), and dataset\.evaluate reports",
        ),
        (
            {"watch": {"every": 1, "images": 1, "split": "val"}, "keep": "best"},
            r"\(train\.watch\.split\), and dataset\.evaluate reports scores on 'val'",
        ),
    ],
)
def test_what_cannot_be_watched_is_refused_before_the_first_step(
    tmp_path: Path, train: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(small.protocol(**train), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_split_that_contains_what_is_reported_does_not_choose_either() -> None:
    facts = Facts(
        "data",
        LabelSet(("a",), ((0, 0, 0),)),
        {"train": 1, "val": 1, "trainval": 2},
        contains={"trainval": ("train", "val")},
    )
    with pytest.raises(
        ConfigError, match=r"'trainval' .*dataset\.evaluate reports scores on 'val'"
    ):
        check_watch(best_protocol(watch={**WATCH, "split": "trainval"}), facts)
    check_watch(best_protocol(), facts)


def test_a_curve_is_read_as_it_was_written_and_what_is_none_is_refused(tmp_path: Path) -> None:
    run(small.protocol(watch=WATCH), tmp_path)
    path = tmp_path / RUN / "watch.jsonl"
    entries = read_watched(path, CLASSES)
    assert read_watched(tmp_path / "nosuch.jsonl", CLASSES) == []
    for lines, message in (
        ([entries[1], entries[0]], "its steps do not rise"),
        ([entries[0], entries[0]], "its steps do not rise"),
        ([watched(1, 1)], "its counts are not of the 13 classes"),
    ):
        write_watched(path, lines)
        with pytest.raises(RecordError, match=message):
            read_watched(path, CLASSES)
    path.write_text('{"step": 1}\n')
    with pytest.raises(RecordError, match=r"watch\.jsonl: cannot be read"):
        read_watched(path, CLASSES)
