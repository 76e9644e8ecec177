"""Rates of loading and training, with a clock of the test's own and with data that sleep."""

import io
import json
import time
from itertools import repeat
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.data import IGNORE
from contextbench.data.base import LabelSet, Sample
from contextbench.data.generated import IMAGES, GeneratedDataset
from contextbench.data.probe import LABELS
from contextbench.data.stream import TrainStream, train_loader
from contextbench.measure import loader
from contextbench.measure.loader import (
    lead_of,
    loading_pace,
    steps_of,
    time_stages,
    training_pace,
)
from contextbench.records.loading import LoaderRecord, Pace, WorkersPace
from contextbench.report.tables import loading
from contextbench.training import waiting
from tests import small

SETTINGS = [part for setting in small.SETTINGS for part in ("--set", setting)]
TWO = (torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8))  # a batch


class Clock:
    """Time that passes only when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    monotonic = __call__


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Stream(TrainStream):
    """Reading takes 3 s, augmenting item k takes 1 + k s."""

    def __init__(self, clock, threads) -> None:
        self.clock, self.threads, self.length = clock, threads, 4

    def read(self, item):
        self.threads.append(torch.get_num_threads())
        self.clock.now += 3
        return Sample(str(item), *(each[0] for each in TWO))

    def augment(self, item, sample):
        assert sample.name == str(item)
        self.clock.now += 1 + item
        return sample.image, sample.labels


def test_stages_are_timed_apart_in_one_thread(clock, monkeypatch):
    threads, before = [], torch.get_num_threads()
    sizes = []

    def collate(crops):
        clock.now += 7
        sizes.append(len(crops))

    monkeypatch.setattr(loader, "default_collate", collate)
    torch.set_num_threads(2)
    samples = time_stages(Stream(clock, threads), 2, 3, clock=clock)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    assert samples["decode"] == [6, 6, 6]
    # Items 0 and 1 warm up; then 2, 3, and from the start: 0, 1 and 2, 3.
    assert samples["augment"] == [3 + 4, 1 + 2, 3 + 4]
    assert samples["collate"] == [7, 7, 7]
    assert sizes == [2] * 4
    assert set(threads) == {1}


def taking(clock, *seconds):
    for each in seconds:
        clock.now += each
        yield TWO


def test_the_first_batches_are_not_counted(clock):
    pace = loading_pace(taking(clock, 50, 60, 2, 3, 4, 1000), 3, lead=2, clock=clock)
    assert pace == Pace(images=3 * 2, seconds=2 + 3 + 4, wait_seconds=2 + 3 + 4)


class FakeTraining:
    """Its steps take so long each."""

    def __init__(self, clock, *seconds):
        self.recipe = SimpleNamespace(device=torch.device("cpu"))
        self.clock, self.left = clock, list(seconds)

    def step(self, _parts):
        self.clock.now += self.left.pop(0)


def test_training_is_timed_with_its_waits(clock, monkeypatch):
    monkeypatch.setattr(waiting, "time", clock)
    training = FakeTraining(clock, 100, 200, 10, 20)
    pace = training_pace(training, taking(clock, 50, 60, 1, 2, 1000), 2, lead=2, clock=clock)
    assert pace == Pace(images=2 * 2, seconds=1 + 10 + 2 + 20, wait_seconds=1 + 2)


def test_batches_that_are_there_are_not_waited_for(clock, monkeypatch):
    monkeypatch.setattr(waiting, "time", clock)
    pace = training_pace(FakeTraining(clock, *[5] * 4), repeat(TWO), 3, lead=1, clock=clock)
    assert pace == Pace(images=6, seconds=15, wait_seconds=0)


@pytest.mark.parametrize("workers", range(6))
def test_each_worker_loads_as_many_of_the_timed_batches(workers):
    for steps in range(1, 10):
        timed = steps_of(steps, workers)
        assert steps <= timed < steps + max(1, workers)
        assert timed % lead_of(workers) == 0


class Sleepy:
    """An image takes 30 ms, which needs no processor."""

    labels = LABELS

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        time.sleep(0.03)
        return Sample(str(index), torch.zeros(3, 4, 4, dtype=torch.uint8), TWO[1][0])

    def fingerprint(self) -> str:
        return "sleepy"


def untouched(image, labels, _generator):
    return image, labels


def test_rates_are_those_of_data_that_sleep():
    stream = TrainStream(Sleepy(), untouched, seed=0, length=100)

    def rate(workers):
        batches = train_loader(stream, batch=4, start_step=0, workers=workers)
        pace = loading_pace(batches, 4, lead=lead_of(workers))
        assert pace.images == 16
        return pace.images / pace.seconds

    alone, two = rate(0), rate(2)
    assert alone <= 1 / 0.03
    assert two > 1.2 * alone  # twice, but for a busy machine


def test_generated_images_are_neither_flat_nor_noise(tmp_path):
    size, labels = (128, 256), LabelSet(("a", "b", "c"), ((0, 0, 0),) * 3)
    dataset = GeneratedDataset(tmp_path, labels, size)
    samples = [dataset[index] for index in range(len(dataset))]
    assert len(samples) == IMAGES
    for sample in samples:
        assert sample.image.shape == (3, *size)
        assert set(sample.labels.unique().tolist()) == {0, 1, 2, IGNORE}
    assert not torch.equal(samples[0].image, samples[1].image)
    raw = 3 * size[0] * size[1]
    sizes = [path.stat().st_size / raw for path in tmp_path.glob("?.png")]
    assert len(sizes) == IMAGES
    assert all(0.2 < share < 0.7 for share in sizes)  # flat: below 0.01, noise: 1


def test_generated_files_are_the_same_everywhere_and_of_the_kind_asked_for(tmp_path):
    datasets = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        datasets.append(GeneratedDataset(tmp_path / name, LABELS, (32, 48), suffix=".jpg"))
    for index in range(IMAGES):
        one, two = (dataset[index] for dataset in datasets)
        assert torch.equal(one.image, two.image)
        assert torch.equal(one.labels, two.labels)
    with Image.open(tmp_path / "one" / "0.jpg") as file:
        assert file.format == "JPEG"
    with Image.open(tmp_path / "one" / "0-mask.png") as file:
        assert np.array_equal(np.array(file), datasets[0][0].labels)


def paces(images, *seconds, wait=0.0):
    return [Pace(images=images, seconds=each, wait_seconds=wait * each) for each in seconds]


def record(*loaders, trainer=()):
    return LoaderRecord(
        protocol_name="p",
        head="fcn" if trainer else None,
        data="train, 5 images",
        image_size=(64, 128),
        crop=(32, 64),
        batch=4,
        pinned=False,
        precision={},
        environment={"device": "a device"},
        stage_seconds={"decode": [1.0, 1.5, 9.0], "augment": [0.3] * 3, "collate": [0.2] * 3},
        trainer=list(trainer),
        loaders=[
            WorkersPace(workers=n, loading=paces(4, 1.0), training=training)
            for n, training in loaders
        ],
    )


def text_of(one):
    console = Console(width=100, file=io.StringIO())
    console.print(loading.loading_console(one))
    return console.file.getvalue()


def test_rates_and_shares_are_medians_over_rounds():
    assert loading.images_per_second(paces(12, 2.0, 3.0, 100.0)) == 12 / 3
    mixed = [*paces(1, 1.0, wait=0.5), *paces(1, 2.0, wait=0.2), *paces(1, 9.0, wait=0.1)]
    assert loading.wait_share(mixed) == pytest.approx(0.2)
    assert loading.process_rate(record()) == 4 / (1.5 + 0.3 + 0.2)


def test_the_fewest_workers_that_suffice_are_named():
    waits = {4: 0.0, 2: 0.05, 1: 0.5, 0: 0.8}
    loaders = [(workers, paces(4, 1.0, wait=wait)) for workers, wait in waits.items()]
    text = text_of(record(*loaders, trainer=paces(4, 1.0)))
    assert "Training alone takes 4 images/s; with --workers 2 it waits 5% of the time." in text
    assert "training alone" in text


def test_where_no_number_suffices_one_is_estimated():
    """Training takes 9 images/s and a process loads 2: five of them."""
    one = record((0, paces(4, 1.0, wait=0.8)), trainer=paces(9, 1.0))
    assert loading.enough_workers(one) is None
    assert loading.estimated_workers(one) == 5
    assert "about 5 workers" in " ".join(text_of(one).split())


def test_loading_alone_has_no_column_of_training():
    text = text_of(record((0, [])))
    assert "Training was not measured." in text
    assert "waiting" not in text


def call(*arguments):
    return CliRunner().invoke(app, ["profile-data", *map(str, arguments)])


@pytest.mark.slow
def test_the_command_writes_what_it_prints(tmp_path):
    timing = ("--workers", "1,0", "--steps", 3, "--rounds", 2, "--device", "cpu")
    result = call(*timing, *SETTINGS, "--json", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    stored = json.loads((tmp_path / "loader.json").read_text())
    assert json.loads(result.stdout) == stored
    assert LoaderRecord.model_validate(stored).model_dump(mode="json") == stored
    assert [each["workers"] for each in stored["loaders"]] == [1, 0]
    assert stored["data"] == "probe train, 8 images"
    assert {len(samples) for samples in stored["stage_seconds"].values()} == {2}
    for each in stored["loaders"]:
        assert [pace["images"] for pace in each["loading"]] == [3 * 2] * 2
        assert [pace["images"] for pace in each["training"]] == [3 * 2] * 2
        assert all(0 < pace["wait_seconds"] < pace["seconds"] for pace in each["training"])
    assert len(stored["trainer"]) == 2


def test_without_the_data_images_of_their_size_are_generated(tmp_path):
    fast = ("--workers", "0", "--steps", 1, "--rounds", 1, "--no-training", "--device", "cpu")
    crop = ("--set", "train.crop=[32,64]", "--set", "train.batch=2", "--data-root", tmp_path / "no")
    result = call("--protocol", "cityscapes-r50", "--image", "64x128", *fast, *crop)
    assert result.exit_code == 0, result.output
    assert "8 generated images (PNG), 64x128" in " ".join(result.stdout.split())
    missing = call("--protocol", "ade20k-r50", *fast, *crop)
    assert missing.exit_code == 2
    assert "--image" in missing.output


def test_the_size_that_a_dataset_is_known_for_is_generated(tmp_path, monkeypatch):
    sizes = []

    class Small(GeneratedDataset):
        def __init__(self, folder, labels, size, *, suffix):
            sizes.append((size, suffix, len(labels.classes)))
            super().__init__(folder, labels, (32, 64), suffix=suffix)

    monkeypatch.setattr(loader, "GeneratedDataset", Small)
    fast = ("--workers", "0", "--steps", 1, "--rounds", 1, "--no-training", "--device", "cpu")
    crop = ("--set", "train.crop=[32,64]", "--set", "train.batch=2", "--data-root", tmp_path)
    assert call("--protocol", "cityscapes-r50", *fast, *crop).exit_code == 0
    assert sizes == [((1024, 2048), ".png", 19)]


@pytest.mark.parametrize(
    ("option", "value"),
    [("--workers", "1,x"), ("--workers", "-1"), ("--image", "big"), ("--precision", "float8")],
)
def test_wrong_options_are_refused(option, value):
    result = call(option, value)
    assert result.exit_code == 2
    assert option in result.output
    assert "Traceback" not in result.output


def test_workers_never_run_out_of_work_before_the_clock_stops():
    """The stream has the timed batches and all that workers have begun by then."""
    for workers in (0, 1, 3):
        request = loader.LoaderRequest(small.protocol(), None, [workers], steps=5)
        begun = lead_of(workers) + steps_of(5, workers) + workers * 2
        assert loader._longest(request) >= begun
