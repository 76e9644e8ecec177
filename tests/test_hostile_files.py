"""Names, numbers and YAML from elsewhere: each is taken as it is, or refused in short lines."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from contextbench.cli.shared import scales_of, seeds_of, size_of
from contextbench.config.files import ConfigError, find_config
from contextbench.config.frozen import LARGEST_SCALE
from contextbench.config.heads import load_head
from contextbench.config.protocols import Protocol, load_protocol
from contextbench.config.safe_yaml import MOST_KEYS, parse_yaml
from contextbench.papers.published import load_table
from contextbench.system.naming import LONGEST_NAME, checked_name
from heads import HEADS

ROOT = Path(__file__).parents[1]
SMALL: dict[str, Any] = {
    "dataset": {"name": "probe"},
    "backbone": {"name": "resnet10", "width": 8},
    "train": {"crop": [32, 32], "batch": 2, "steps": 3, "lr": 0.1},
}
NO_NAMES = {
    "above": "../../evil", "root": "/etc", "folder": "a/b", "backslash": "a\\b", "empty": "",
    "here": ".", "parent": "..", "hidden": ".git", "space": " a", "line": "a\nb", "NUL": "a\0b",
    "escape": "\x1b[2Jx", "right to left": "a\u202eb", "half a surrogate": "a\ud800",
    "long": "a" * (LONGEST_NAME + 1), "long in bytes": "ä" * LONGEST_NAME,
}  # fmt: skip


def written(path: Path, content: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("protocol") / "small.yaml", SMALL)


@pytest.mark.parametrize("name", NO_NAMES.values(), ids=NO_NAMES)
def test_a_name_is_one_component_of_a_path(tmp_path: Path, name: str) -> None:
    row = {"name": "a", "label": "A", "method": None, "head": "fcn", "counts": "all"}
    features = {"channels": 1, "height": 1, "width": 1}
    table = {
        "title": "t", "published": "f", "features": features, "classes": 2, "baseline": "a",
        "rows": [row],
    }  # fmt: skip
    path = tmp_path / "mine.yaml"
    loads: list[tuple[dict[str, Any], Callable[[str], object]]] = [
        (SMALL, load_protocol),
        ({"head": "fcn"}, lambda file: load_head(file, HEADS)),
        (table, lambda file: load_table(file, HEADS)),
    ]
    for content, load in loads:
        with pytest.raises(ConfigError) as caught:
            load(written(path, {**content, "name": name}))
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["probe", "a b", "größe", "x" * LONGEST_NAME, "a.b+c-1,2"])
def test_names_that_stay_where_they_are_put(tmp_path: Path, name: str) -> None:
    assert checked_name(name) == name
    (tmp_path / name).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("kind", ["protocols", "heads", "tables", "ablations"])
@pytest.mark.parametrize(
    "name", ["a" * 300, "a" * 300 + ".yaml", "x/" * 3000, "a\0.yaml", "\ud800"]
)
def test_names_that_no_file_can_have_are_not_found(name: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no file|unknown") as caught:
        find_config(name, kind)
    assert len(str(caught.value)) < 7000


NUMBERS = [
    "train.lr", "train.weight_decay", "train.head_lr_factor", "train.clip_norm", "train.scale",
    "train.aspect", "train.schedule.power", "train.schedule.warmup_steps", "train.steps",
    "train.batch", "train.crop", "train.loss.dice", "train.loss.class_weights", "train.rotate",
    "head_width_factor", "evaluate.scales", "evaluate.size", "evaluate.short_side",
    "backbone.width", "train.jitter", "train.ema", "train.momentum",
]  # fmt: skip
BEYOND = [
    ".inf",
    "-.inf",
    ".nan",
    "1.0e308",
    "1e999",
    "0x" + "f" * 5000,
    "9" * 5000,
    "1" + "0" * 18,
]


A_RATE = ("train.lr", "1" + "0" * 18)  # that diverges


@pytest.mark.parametrize(
    ("key", "value"),
    [pair for pair in itertools.product(NUMBERS, BEYOND) if pair != A_RATE],
    ids=lambda text: text[:25],
)
def test_numbers_are_finite_and_bounded(key: str, value: str, small: str) -> None:
    lists = {"scale", "aspect", "class_weights", "scales", "crop", "size"}
    text = f"[{value}, {value}]" if key.rpartition(".")[2] in lists else value
    with pytest.raises(ConfigError) as caught:
        load_protocol(small, [f"{key}={text}"])
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    "given", ["nan", "inf", "1e9", "0", "-1", "1,nan", "1e999", "x", "9" * 5000]
)
def test_scales_of_the_command_line(given: str) -> None:
    with pytest.raises(ConfigError, match="--scales") as caught:
        scales_of(given)
    assert len(str(caught.value)) < 200
    assert scales_of(f"0.5,{LARGEST_SCALE}") == (0.5, LARGEST_SCALE)


def test_other_numbers_of_the_command_line() -> None:
    for bad in ("-1", str(2**63), "1.5", "9" * 5000):
        with pytest.raises(ConfigError, match="--seeds"):
            seeds_of(bad)
    assert seeds_of(f"0,{2**63 - 1}") == [0, 2**63 - 1]
    for bad in ("0x4", "4x0", "4", "4x99999999"):
        with pytest.raises(ConfigError, match="--window"):
            size_of(bad, "--window")


LAUGHS = "\n".join(
    ["a0: &a0 [1]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20))]
)
MERGES = "\n".join(
    ["a0: &a0 {k: 1}"]
    + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 20)]
)
BAD_YAML = {
    "a key twice": ("name: a\ntrain: {lr: 1, steps: 2}\nname: b", r"line 3: the key 'name' occurs"),
    "a key twice below": (
        "train:\n  lr: 2e-3\n  steps: 4\n  lr: 5.0",
        r"line 4: the key 'lr' occu",
    ),
    "deep": ("a: " + "[" * 600, "nested deeper"),
    "deep mapping": ("{a: " * 1500, "nested deeper"),
    "less deep": ("a: " + "[" * 40 + "]" * 40, "nested deeper"),
    "no bool": ("a: !!bool foo", "line 1: 'foo' cannot be read as bool"),
    "no timestamp": ("a: 1\nb: !!timestamp foo", "line 2: 'foo' cannot be read as timestamp"),
    "no int": ("a: !!int foo", "'foo' cannot be read as int"),
    "no float": ("a: !!float foo", "'foo' cannot be read as float"),
    "bytes": ("a: !!binary aGVsbG8=", "no plain value"),
    "date": ("a: 2024-02-03", "no plain value"),
    "set": ("a: !!set {x, y}", "no plain value"),
    "tag": ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "many digits": ("a: " + "7" * 5000, "cannot be read as int"),
    "hexadecimal": ("a: 0x" + "f" * 5000, "more than 64 bits"),
    "recursive": ("a: &a [*a]", "nested deeper"),
    "recursive twice": ("a: &a [*a, *a]", "more than|nested deeper"),
    "recursive mapping": ("a: &a {b: *a}", "nested deeper"),
    "laughs": (LAUGHS, "more than"),
    "aliases": ("a: &a 1\nb: [" + "*a, " * 2000 + "*a]", "aliases"),
    "key of a list": ("{[1, 2]: 3}", "unhashable"),
    "key of a number": ("{1: 3}", "the key 1 is no text"),
    "escape": ("a: \x1b[2J", "special characters"),
    "half a surrogate": ('a: "\\ud800"', "no Unicode"),
    "unknown anchor": ("a: *b", "undefined alias"),
    "two documents": ("a: 1\n---\nb: 2", "line 2"),
}


@pytest.mark.parametrize(("text", "message"), BAD_YAML.values(), ids=BAD_YAML)
def test_yaml_is_plain_bounded_and_says_each_key_once(
    tmp_path: Path, small: str, text: str, message: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    for load in (lambda: load_protocol(str(path)), lambda: load_head(str(path), HEADS)):
        with pytest.raises(ConfigError, match=rf"{re.escape(str(path))}: .*({message})") as caught:
            load()
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < len(str(path)) + 400
    with pytest.raises(ConfigError, match=r"--set 'train.lr=.*: the value is not YAML"):
        load_protocol(small, [f"train.lr={text}"])


def test_merged_mappings_are_bounded() -> None:
    """By this code or by PyYAML, whose later releases merge each mapping once."""
    try:
        found = parse_yaml(MERGES)
    except ValueError as error:
        assert f"more than {MOST_KEYS} keys" in str(error)  # noqa: PT017
    else:
        assert found["a19"] == {"k": 1}


def test_legal_yaml_stays_legal() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, 1.5e+3, true, ~, 'x']"
    mapping = {"x": 1, "y": 2}
    assert parse_yaml(text) == {
        "a": mapping, "b": {"x": 1, "y": 3}, "c": [mapping, 1500.0, True, None, "x"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "near", "others"),
    [
        ("train.loss.ohem.treshold", "threshold", ["keep"]),  # below an optional model
        ("expected.sorce", "source", ["scores", "gpu_hours"]),
        ("train.schedule.powr", "power", ["floor"]),
    ],
)
def test_an_unknown_key_below_any_model_has_its_neighbours_named(
    key: str, near: str, others: list[str]
) -> None:
    with pytest.raises(ConfigError, match=rf"did you mean '{near}'\?") as caught:
        load_protocol("probe", [f"{key}=1"])
    [line] = [line for line in str(caught.value).splitlines() if "unknown key" in line]
    assert all(other in line.partition("allowed: ")[2] for other in others)


def test_messages_are_short_whatever_is_given(tmp_path: Path) -> None:
    content = {**SMALL, **{f"key{i}": "x" * 2000 for i in range(20)}, "precision": "y" * 2000}
    with pytest.raises(ConfigError) as caught:
        load_protocol(written(tmp_path / "mine.yaml", content))
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[-1].endswith(": and 11 more")
    assert max(map(len, lines)) < 500


RECORDS = sorted((ROOT / "results").rglob("record.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_committed_fingerprints_are_those_of_today(path: Path) -> None:
    """Whatever is checked of a protocol, what identifies it does not change."""
    record = json.loads(path.read_text(encoding="utf-8"))
    protocol = Protocol.model_validate(record["protocol"])
    assert protocol.fingerprint(record["dataset_fingerprint"]) == record["fingerprint"]
