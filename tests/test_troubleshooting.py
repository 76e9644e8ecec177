"""docs/troubleshooting.md: every message on it is made here, by the fault that it is about."""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from contextbench.config.protocols import BackboneConfig, DatasetConfig
from contextbench.data import build_dataset
from contextbench.data.labels import LabelTable
from contextbench.models.build import build_model
from contextbench.models.precision import Precision
from contextbench.records.comparability import check_comparable
from contextbench.runs.cells import Cell, cell_lock, open_setting, stored_run
from contextbench.runs.run import run_cell
from contextbench.system.errors import UserError
from contextbench.training.failures import failure_of
from tests import small
from tests.report.records import class_iou, run

PAGE = Path(__file__).parents[1] / "docs" / "troubleshooting.md"
MESSAGES = re.findall(r"^```\n([^`]*)\n```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def message_of(work: Callable[[], object]) -> str:
    """What a user is told of the error that `work` raises."""
    with pytest.raises(UserError) as caught:
        work()
    return str(caught.value)


def recorded(error: Exception) -> str:
    return failure_of(error).cause


def no_data(folder: Path, _patch: pytest.MonkeyPatch) -> str:
    config = DatasetConfig(name="camvid")
    return message_of(lambda: build_dataset(config, "train", folder / "camvid"))


def undeclared_value(folder: Path, _patch: pytest.MonkeyPatch) -> str:
    table = LabelTable({0: 0, 1: 1, 2: 2, 3: 3}, ignored={255})
    mask = np.array([[0, 7], [255, 3]], dtype=np.uint8)
    return message_of(lambda: table.apply(mask, folder / "0001.png"))


def no_memory(_folder: Path, _patch: pytest.MonkeyPatch) -> str:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    return recorded(caught.value)


def one_value(folder: Path, _patch: pytest.MonkeyPatch) -> str:
    setting = open_setting(small.protocol(batch=1), None)
    record = run_cell(Cell(setting, small.head("ppm"), 0, Precision()), small.execution(folder))
    assert record.status == "failed"
    assert record.failure is not None
    return record.failure.cause


def no_network(_folder: Path, patch: pytest.MonkeyPatch) -> str:
    def fail(*_: object, **__: object) -> None:
        raise URLError("no network")

    patch.setattr(torch.hub, "load_state_dict_from_url", fail)
    backbone = BackboneConfig(name="resnet18", weights="IMAGENET1K_V1")
    protocol = small.protocol().model_copy(update={"backbone": backbone})
    return message_of(lambda: build_model(protocol, small.head(), 4, seed=0))


def no_shared_memory(_folder: Path, _patch: pytest.MonkeyPatch) -> str:
    return recorded(RuntimeError("unable to write to file </torch_7_1>: No space left on device"))


def another_configuration(folder: Path, _patch: pytest.MonkeyPatch) -> str:
    execution, head = small.execution(folder), small.head()
    run_cell(Cell(open_setting(small.protocol(steps=1), None), head, 0, Precision()), execution)
    other = Cell(open_setting(small.protocol(steps=2), None), head, 0, Precision())
    return message_of(lambda: stored_run(other, execution))


def held(folder: Path, _patch: pytest.MonkeyPatch) -> str:
    execution = small.execution(folder)
    cell = Cell(open_setting(small.protocol(), None), small.head(), 0, Precision())
    with cell_lock(cell, execution):
        return message_of(lambda: cell_lock(cell, execution).__enter__())


def mixed(_folder: Path, _patch: pytest.MonkeyPatch) -> str:
    one, other = run("fcn", iou=class_iou("fcn", 0)), run("ppm", iou=class_iou("ppm", 0))
    other = other.model_copy(update={"fingerprint": "0123456789abcdef"})
    return message_of(lambda: check_comparable([one, other]))


MAKERS = (
    no_data,
    undeclared_value,
    no_memory,
    one_value,
    no_network,
    no_shared_memory,
    another_configuration,
    held,
    mixed,
)


@pytest.mark.parametrize(("number", "make"), list(enumerate(MAKERS)))
def test_messages_are_those_of_the_page(
    number: int,
    make: Callable[[Path, pytest.MonkeyPatch], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = ".*".join(re.escape(part) for part in MESSAGES[number].split("…"))
    assert re.match(shown, make(tmp_path, monkeypatch), re.DOTALL)


def test_every_message_of_the_page_is_made() -> None:
    assert len(MESSAGES) == len(MAKERS)
