"""Datasets by name, and the precedence of the places where files are looked for."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from contextbench.data import (
    DATA_ROOT_VARIABLE,
    DATASETS,
    build_dataset,
    dataset_folder,
    dataset_source,
    option_names,
)
from contextbench.data.base import DataError


def config(name: str, root: str | None = None, **options: object) -> SimpleNamespace:
    return SimpleNamespace(name=name, root=root, options=options)


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)


def test_the_probe_takes_its_options() -> None:
    options = {"train_images": 5, "eval_images": 3, "size": 64, "seed": 2}
    train = build_dataset(config("probe", **options), "train", None)
    val = build_dataset(config("probe", **options), "val", None)
    assert (len(train), len(val)) == (5, 3)
    assert train[0].labels.shape == (64, 64)
    assert train[0].name != val[0].name
    oblong = build_dataset(config("probe", size=[64, 80]), "val", None)
    assert oblong[0].labels.shape == (64, 80)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (config("prob"), "'prob'.*did you mean 'probe'.*camvid"),
        (config("probe", sise=64), "probe.*'sise'.*did you mean 'size'"),
        (config("camvid", "data/camvid", size=64), "camvid.*'size'.*allowed are none"),
        (config("cityscapes", mask="labelIds"), "cityscapes.*'mask'.*did you mean 'masks'"),
        (config("probe", size="big"), "size 'big'"),
        (config("probe", size=[64, 64, 3]), r"size \[64, 64, 3\]"),
        (config("probe", seed=1.5), r"seed 1\.5"),
        (config("probe", train_images=True), "train_images True"),
    ],
)
def test_mistakes_name_what_was_given_and_what_is_allowed(
    given: SimpleNamespace, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        build_dataset(given, "train", None)


def test_the_folder_is_found_by_option_then_variable_then_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parent in ("option", "variable"):
        (tmp_path / parent / "camvid").mkdir(parents=True)
    given = config("camvid", "data/camvid")
    assert dataset_folder(given, None) == Path("data/camvid")
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path / "variable"))
    assert dataset_folder(given, None) == tmp_path / "variable" / "camvid"
    assert dataset_folder(given, tmp_path / "option") == tmp_path / "option" / "camvid"


def test_the_data_root_may_be_the_dataset_itself(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    assert dataset_folder(config("camvid", "data/camvid"), tmp_path) == tmp_path


def test_home_and_variables_are_expanded_wherever_a_root_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", str(tmp_path / "disk"))
    (tmp_path / "disk/camvid").mkdir(parents=True)
    assert dataset_folder(config("camvid", "~/data"), None) == tmp_path / "data"
    assert dataset_folder(config("camvid", "$HOME/data"), None) == tmp_path / "data"
    assert dataset_folder(config("camvid", "${PLACE}/x"), None) == tmp_path / "disk/x"
    given = config("camvid", "data/camvid")
    assert dataset_folder(given, Path("~/disk")) == tmp_path / "disk/camvid"
    monkeypatch.setenv(DATA_ROOT_VARIABLE, "~/disk")
    assert dataset_folder(given, None) == tmp_path / "disk/camvid"
    monkeypatch.setenv(DATA_ROOT_VARIABLE, "$PLACE")
    assert dataset_folder(given, None) == tmp_path / "disk/camvid"
    assert dataset_folder(config("camvid", "$UNSET/x"), Path("~nobody-here")).name == "~nobody-here"


def test_a_config_without_root_uses_the_name_of_the_dataset() -> None:
    assert dataset_folder(config("camvid"), None) == Path("camvid")


def test_a_missing_dataset_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}/train does not exist.*--data-root"):
        build_dataset(config("camvid", "data/camvid"), "train", tmp_path)


def test_facts_need_no_files(tmp_path: Path) -> None:
    facts = dataset_source(config("cityscapes", str(tmp_path / "nowhere"))).facts
    assert (len(facts.labels.classes), facts.size) == (19, (1024, 2048))
    probe = dataset_source(config("probe", train_images=5, size=[64, 80])).facts
    assert (probe.splits, probe.size) == ({"train": 5, "val": 128, "test": 128}, (64, 80))


def test_options_are_the_keyword_parameters() -> None:
    assert option_names(DATASETS["voc"]) == ["augmented_masks", "sbd"]
    assert option_names(DATASETS["ade20k"]) == []
    assert {name for name, make in DATASETS.items() if option_names(make)} == {
        *("probe", "cityscapes", "voc", "pascal_context", "coco_stuff", "folder")
    }
