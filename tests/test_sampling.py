"""What belongs together is declared, checked when it is, and kept with the record."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from contextbench.config.sampling import INDEPENDENT, LONGEST_PATTERN, Sampling, SamplingError
from contextbench.data import DATASETS
from contextbench.records.classes import LabelInfo
from contextbench.records.comparability import sampling_of
from contextbench.records.runs import RunRecord
from tests.report import records


def test_clusters_are_first_groups_or_whole_matches() -> None:
    names = ["7_a", "7_b", "12_a", "7_c"]
    assert Sampling(cluster=r"^\d+").clusters(names) == [0, 0, 1, 0]
    assert Sampling(cluster=r"_(.)").clusters(names) == [0, 1, 0, 2]
    assert INDEPENDENT.clusters(names) is None


def test_names_without_a_match_are_named() -> None:
    with pytest.raises(SamplingError, match="does not match a, b"):
        Sampling(cluster="^[0-9]").clusters(["1", "a", "b"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cluster": "("}, r"'\(' is no regular expression \(missing \)"),
        ({"cluster": ""}, "at least 1 character"),
        ({"cluster": "a" * (LONGEST_PATTERN + 1)}, f"at most {LONGEST_PATTERN} characters"),
        ({"frames": "shuffled"}, "ordered"),
        ({"frames": "ordered", "cluster": "a"}, "either 'frames' or 'cluster'"),
        ({"blocks": 3}, "Extra inputs"),
    ],
)
def test_a_wrong_declaration_says_what_is_wrong(fields: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Sampling(**fields)


def test_official_datasets_declare_what_is_true_of_them() -> None:
    """Frames of drives in order of time, persons of one photograph; others are single photos."""
    options = {"pascal_context": {"classes": 59}, "coco_stuff": {"release": "10k"}}
    declared = {}
    for name in set(DATASETS) - {"folder"}:
        source = DATASETS[name](Path("nowhere"), **options.get(name, {}))
        declared[name] = source.facts.labels.sampling
    ordered = {name for name, sampling in declared.items() if sampling.frames == "ordered"}
    assert ordered == {"camvid", "cityscapes"}
    clustered = {name: each for name, each in declared.items() if each.cluster is not None}
    assert clustered.keys() == {"lip"}
    assert clustered["lip"].clusters(["77_1", "77_2", "100034_483681"]) == [0, 0, 1]


def stored(dataset: str, sampling: Sampling | None) -> RunRecord:
    run = records.run()
    labels = LabelInfo(classes=["a", "b"], palette=[(0, 0, 0), (1, 1, 1)], sampling=sampling)
    protocol = {**run.protocol, "dataset": {"name": dataset}}
    changed = run.model_copy(update={"labels": labels, "protocol": protocol})
    return RunRecord.model_validate_json(changed.model_dump_json())


def test_a_record_keeps_the_declaration_and_an_older_one_its_statistics() -> None:
    frames = Sampling(frames="ordered")
    assert sampling_of(stored("mine", frames)) == frames
    assert sampling_of(stored("camvid", INDEPENDENT)) == INDEPENDENT  # what is declared counts
    assert sampling_of(stored("camvid", None)) == frames
    assert sampling_of(stored("cityscapes", None)) == INDEPENDENT
