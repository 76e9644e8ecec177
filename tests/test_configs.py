"""Shipped files load, mistakes in files are named, and fingerprints follow what is measured."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from contextbench.config import averaging
from contextbench.config.files import ConfigError, configs_folder, names_in
from contextbench.config.heads import HeadConfig, load_head
from contextbench.config.protocols import Protocol, load_protocol
from contextbench.models.build import build_model, head_options, loss_weights
from heads import HEADS

PROTOCOLS = names_in("protocols")
SMALL: dict[str, Any] = {
    "dataset": {"name": "probe"},
    "backbone": {"name": "resnet10", "width": 8},
    "train": {"crop": [32, 32], "batch": 2, "steps": 3, "lr": 0.1},
}

Write = Callable[[Any], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a mapping as YAML, or a text as it is, and gives the path as a user types it."""

    def written(content: Any, name: str = "mine.yaml") -> str:
        path = tmp_path / name
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return written


def test_every_shipped_file_is_of_a_kind() -> None:
    files = {p.relative_to(configs_folder()).as_posix() for p in configs_folder().rglob("*.*")}
    kinds = {
        "protocols": PROTOCOLS,
        **{kind: names_in(kind) for kind in ("heads", "tables", "ablations")},
    }
    assert files == {f"{kind}/{name}.yaml" for kind, names in kinds.items() for name in names}
    assert {"probe", "camvid-small"} <= {*PROTOCOLS}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_shipped_protocols_load(name: str) -> None:
    assert load_protocol(name).name == name


@pytest.mark.parametrize("name", names_in("heads"))
def test_shipped_heads_load_and_build(name: str) -> None:
    head = load_head(name, HEADS)
    assert (head.name, head.head in HEADS) == (name, True)
    model = build_model(Protocol(name="small", **SMALL), head, 3, seed=0)
    assert loss_weights(model, head) == {**model.head.loss_weights, **head.loss_weights}


@pytest.mark.parametrize("name", HEADS)
def test_every_registered_head_has_a_file_with_the_published_weights(name: str) -> None:
    head = load_head(name, HEADS)
    assert head.head == name
    assert head.loss_weights == dict(HEADS[name].loss_weights)


def test_a_registered_head_without_a_file_has_default_options() -> None:
    assert load_head("mine", ["mine"]) == HeadConfig(name="mine", head="mine")


def test_a_head_file_may_lie_anywhere_and_its_name_is_the_row(write: Write) -> None:
    path = write({"head": "ocr", "options": {"key_channels": 64}})
    head = load_head(path, HEADS)
    assert (head.name, head.head, head.options) == ("mine", "ocr", {"key_channels": 64})


def test_overrides_replace_single_values(write: Write) -> None:
    overrides = [
        "train.steps=7",
        "train.schedule.power=1",  # below a mapping that the file leaves out
        "train.scale=[1.0, 1.5]",
        "backbone.weights=null",
        "dataset.options.size=64",
    ]
    path = write(SMALL)
    changed, before = load_protocol(path, overrides), load_protocol(path)
    assert changed.train.steps == 7
    assert changed.train.schedule.power == 1
    assert changed.train.scale == (1.0, 1.5)
    assert changed.dataset.options == {"size": 64}
    same = {"crop", "batch", "lr", "momentum", "flip"}
    assert changed.train.model_dump(include=same) == before.train.model_dump(include=same)


def test_the_last_of_two_overrides_counts(write: Write) -> None:
    overrides = ["train.batch=3", "train.batch=4"]
    assert load_protocol(write(SMALL), overrides).train.batch == 4


BAD_OVERRIDES = [
    ("train.steps", "--set 'train.steps': write it as key.key=value"),
    ("=3", "--set '=3': write it as key.key=value"),
    ("train.steps=[1", "--set 'train.steps=[1': the value is not YAML"),
    ("train.lr.x=1", "--set 'train.lr.x=1': 'lr' holds a value, not keys"),
    ("train.stpes=9", "unknown key 'train.stpes'; did you mean 'steps'?"),
    ("train.schedule.powr=1", "unknown key 'train.schedule.powr'; did you mean 'power'?"),
    ("trian.steps=9", "unknown key 'trian'; did you mean 'train'?"),
    ("train.steps=many", "key 'train.steps' is 'many': Input should be a valid integer"),
    ("train.steps=0", "key 'train.steps' is 0: Input should be greater than or equal to 1"),
    ("train.scale=[2, 1]", "scale must be [low, high] with 0 < low <= high, got [2.0, 1.0]"),
    ("train.crop=[32]", "key 'train.crop.1' is missing"),
    ("train=9", "key 'train' is 9"),
    (
        "backbone.output_stride=6",
        "key 'backbone.output_stride' is 6: Input should be 4, 8, 16 or 32",
    ),
]


@pytest.mark.parametrize(("override", "message"), BAD_OVERRIDES)
def test_bad_overrides(write: Write, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_protocol(write(SMALL), [override])


def test_bad_keys_name_the_file_and_all_of_them_are_reported(write: Write) -> None:
    path = write({**SMALL, "presicion": "auto", "dataset": {"name": 5}})
    with pytest.raises(ConfigError) as caught:
        load_protocol(path)
    lines = str(caught.value).splitlines()
    assert {line.partition(": ")[0] for line in lines} == {path}
    assert "unknown key 'presicion'; did you mean 'precision'?" in str(caught.value)
    assert "key 'dataset.name' is 5: Input should be a valid string" in str(caught.value)


@pytest.mark.parametrize("key", ["train", "train.steps", "dataset.name"])
def test_missing_keys(write: Write, key: str) -> None:
    outer, _, inner = key.partition(".")
    content = {k: v for k, v in SMALL.items() if k != outer}
    if inner:
        content[outer] = {k: v for k, v in SMALL[outer].items() if k != inner}
    with pytest.raises(ConfigError, match=f"mine.yaml: key {key!r} is missing"):
        load_protocol(write(content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: [1, 2", "cannot be read as YAML"),
        ("just a text", "must hold a mapping of keys, found str"),
        ("", "must hold a mapping of keys, found NoneType"),
        ("!!python/object/apply:os.getcwd []", "cannot be read as YAML"),
    ],
)
def test_files_that_are_not_yaml_mappings(write: Write, content: str, message: str) -> None:
    path = write(content)
    for load in (lambda: load_protocol(path), lambda: load_head(path, HEADS)):
        with pytest.raises(ConfigError, match=f"{re.escape(path)}: {message}"):
            load()


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "image.yaml"
    path.write_bytes(b"\x89PNG\xff")
    with pytest.raises(ConfigError, match=r"image\.yaml: cannot be read as YAML"):
        load_protocol(str(path))


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown protocol 'prob'; did you mean 'probe'"):
        load_protocol("prob")
    with pytest.raises(ConfigError, match="unknown head 'asp'; did you mean 'aspp'") as caught:
        load_head("asp", HEADS)
    assert all(name in str(caught.value) for name in HEADS)


@pytest.mark.parametrize("name", ["nowhere.yaml", "folder/ocr"])
def test_missing_files(name: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no file {name}"):
        load_head(name, HEADS)


def test_a_head_file_of_an_unknown_head(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml: head 'orc' is unknown; did you mean 'ocr'"):
        load_head(write({"head": "orc"}), HEADS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"options": {}}, "key 'head' is missing"),
        ({"head": "ocr", "option": {}}, "unknown key 'option'; did you mean 'options'?"),
        ({"head": "ocr", "train": {"lr": 1}}, "unknown key 'train'"),  # shared by all heads
        ({"head": "ocr", "loss_weights": {"coarse": -1}}, "key 'loss_weights.coarse' is -1"),
    ],
)
def test_bad_head_files(write: Write, content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_head(write(content), HEADS)


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_an_option_that_the_head_lacks(factor: float) -> None:
    protocol = Protocol(name="small", head_width_factor=factor, **SMALL)
    head = HeadConfig(name="mine", head="ocr", options={"key_chanels": 8})
    message = "head file 'mine': head 'ocr' has no option 'key_chanels'; did you mean 'key_channel"
    with pytest.raises(ConfigError, match=message):
        build_model(protocol, head, 3, seed=0)


def test_an_option_of_the_wrong_type() -> None:
    head = HeadConfig(name="mine", head="ocr", options={"width": "wide"})
    with pytest.raises(ConfigError, match="head file 'mine': "):
        build_model(Protocol(name="small", **SMALL), head, 3, seed=0)


def test_a_weight_of_a_term_that_the_head_lacks() -> None:
    head = HeadConfig(name="mine", head="ocr", loss_weights={"course": 0.4})
    model = build_model(Protocol(name="small", **SMALL), head, 3, seed=0)
    with pytest.raises(ConfigError, match=r"loss_weights\.course: .* did you mean 'coarse'"):
        loss_weights(model, head)


def fingerprint(*overrides: str, data: str = "d") -> str:
    return load_protocol("probe", overrides).fingerprint(data)


@pytest.mark.parametrize(
    "override",
    [
        "train.lr=0.123",
        "train.schedule.warmup_steps=1",
        "train.ema=0.9",
        "head_width_factor=0.25",
        "dataset.options.seed=5",
        "evaluate.flip=true",
        "precision=float32",
    ],
)
def test_what_is_measured_changes_the_fingerprint(override: str) -> None:
    assert fingerprint(override) != fingerprint()


@pytest.mark.parametrize("override", ["dataset.root=/elsewhere", "name=other", "train.flip=true"])
def test_names_places_and_spelled_out_values_do_not(override: str) -> None:
    assert fingerprint(override) == fingerprint()


def test_how_many_windows_are_seen_at_once_is_no_part_of_it() -> None:
    """It moves scores by rounding: records of other batches, and of before, stay comparable."""
    slide = ["evaluate.mode=slide", "evaluate.window=[96,96]", "evaluate.stride=[64,64]"]
    assert fingerprint(*slide, "evaluate.window_batch=4") == fingerprint(*slide) != fingerprint()


def test_averages_of_the_old_rule_have_another_fingerprint(monkeypatch: Any) -> None:
    """Without averages the rule does not matter."""
    now, plain = fingerprint("train.ema=0.9"), fingerprint()
    monkeypatch.setattr(averaging, "RULE", 1)
    assert fingerprint("train.ema=0.9") != now
    assert fingerprint() == plain


def test_the_data_is_part_of_the_fingerprint() -> None:
    assert fingerprint(data="other") != fingerprint()


def scaled(head: str, factor: float, **options: Any) -> dict[str, Any]:
    protocol = Protocol(name="small", head_width_factor=factor, **SMALL)
    return head_options(protocol, HeadConfig(name=head, head=head, options=options))


def test_the_width_factor_scales_every_width_and_nothing_else() -> None:
    assert scaled("ocnet", 0.25, width=512, key_channels=100, dropout=0.2) == {
        "width": 128,  # 512 / 4
        "key_channels": 25,
        "value_channels": 64,  # the default of 256, / 4
        "dropout": 0.2,
    }
    assert scaled("ppm", 0.125, bins=[1, 2]) == {"bins": [1, 2], "width": 64}
    assert scaled("encnet", 0.5, codewords=32) == {"codewords": 32, "width": 256}


def test_no_width_is_scaled_to_nothing() -> None:
    assert scaled("ocr", 1e-6) == {"width": 1, "key_channels": 1}


def test_a_factor_of_one_leaves_the_options_alone() -> None:
    assert scaled("ppm", 1.0, width=99) == {"width": 99}


def test_widths_that_follow_the_backbone_are_left_to_it() -> None:
    """A quarter of the context width; the branch on layer3 keeps half of its 32 channels."""
    protocol = Protocol(name="small", head_width_factor=0.25, **SMALL)
    model = build_model(protocol, HeadConfig(name="fcn", head="fcn"), 3, seed=0)
    assert model.head.get_parameter("context.0.0.weight").shape == (128, 64, 3, 3)
    assert model.head.get_parameter("auxiliary.branch.0.0.weight").shape == (16, 32, 3, 3)


def test_a_date_that_cannot_be_is_refused_like_other_values():
    with pytest.raises(ConfigError, match="2024-99-99"):
        load_protocol("probe", ["dataset.name=2024-99-99"])
