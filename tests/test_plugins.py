"""Heads of other packages: found, named, refused, recorded, and checked as our own are."""

import inspect
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.files import ConfigError
from contextbench.config.heads import HeadConfig, known_names
from contextbench.models.build import check_heads, head_options
from contextbench.models.heads import (
    head_class,
    identified,
    known_heads,
    named_head,
    named_heads,
)
from contextbench.models.precision import Precision
from contextbench.report.page.provenance import _head_entry
from contextbench.runs.cells import Cell, open_setting, stored_run
from contextbench.runs.run import run_cell
from contextbench.runs.trained import open_run
from contextbench.system import plugins
from contextbench.system.errors import UserError
from contextbench.system.plugins import PluginError
from heads import Channels, Features, HeadOutput, contract
from heads.contract import Broken, findings
from heads.fcn import FCNHead
from heads.small import Subject, narrow_subject
from tests import small
from tests.cases import quick
from tests.plugged import HEAD, Packages


def call(*arguments: object) -> tuple[int, str]:
    """Exit code and output of a command, which never shows a traceback."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, " ".join(result.output.split())


def test_an_entry_point_is_a_head_by_its_name(others: Packages) -> None:
    others.module("strips.py")
    others.install("strip-package", {"strip": "strips:Plain"})
    head = named_head("strip")
    assert (head.name, head.head) == ("strip", "strip")
    assert head.plugin is not None
    assert (head.plugin.distribution, head.plugin.version) == ("strip-package", "1.2")
    assert head_class(head).__name__ == "Plain"
    assert "width" in head_options(small.protocol(), head)
    assert known_names()[-1] == "strip"


def test_a_class_is_called_as_in_its_code(others: Packages) -> None:
    others.module("a/b.py")
    head = named_head("a.b:Plain")
    assert (head.name, head.head) == ("Plain", "a.b:Plain")
    assert head.plugin is not None
    assert (head.plugin.distribution, head.plugin.place) == (None, "a.b:Plain")
    assert len(head.plugin.digest or "") == 64


def test_a_file_gives_a_class_its_name_and_options(others: Packages, tmp_path: Path) -> None:
    others.module("a.py")
    path = tmp_path / "narrow.yaml"
    path.write_text("head: a:Plain\noptions: {width: 9}\n")
    head = named_head(str(path))
    assert (head.name, head.options) == ("narrow", {"width": 9})
    assert head.plugin is not None
    assert pickle.loads(pickle.dumps(head)) == head  # as jobs and trials are sent it


def test_a_file_cannot_state_which_code_it_is(tmp_path: Path) -> None:
    path = tmp_path / "h.yaml"
    path.write_text("head: fcn\nplugin: {place: 'a:b'}\n")
    with pytest.raises(ConfigError, match=r"h\.yaml: unknown key 'plugin'.*allowed: head"):
        named_head(str(path))


def test_registered_heads_are_recorded_as_before() -> None:
    assert "plugin" not in HeadConfig(name="fcn", head="fcn").model_dump(mode="json")
    assert "plugin" not in small.protocol().model_dump(mode="json")["dataset"]


def test_modules_of_the_current_folder_are_found(
    others: Packages, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = others.folder / "here"
    others.module("here/lonely.py")
    monkeypatch.chdir(here)
    assert named_head("lonely:Plain").plugin is not None


REFUSED = {
    "nowhere.at_all:Head": "nowhere.at_all:Head: there is no module nowhere",
    "fine:Missing": "fine:Missing: fine has no 'Missing'",
    "fine:number": "fine:number is a int, not a class",
    "fine:function": "fine:function is a function, not a class",
    "fine:Other": "fine:Other is not a head: it does not derive from heads.ContextHead",
    "raising:Head": "importing it raises ZeroDivisionError: division by zero (raising.py, line 1)",
    "leaving:Head": "importing it raises SystemExit",
    "needing:Head": "importing it raises ModuleNotFoundError: No module named 'not_there'",
    "../fine:Head": "'../fine:Head': write package.module:Class",
    "fine/a:Head": "write package.module:Class",
    "fine:": "'fine:': write package.module:Class",
    "a b:Head": "write package.module:Class",
    "orc": "unknown head 'orc'; did you mean 'ocr'?",
}


@pytest.mark.parametrize("name", quick(REFUSED, list(REFUSED)[:4]))
def test_what_is_no_head_is_refused(others: Packages, name: str) -> None:
    others.module("fine.py", f"{HEAD}number = 1\ndef function(): pass\nclass Other: pass\n")
    others.module("raising.py", "1 / 0\n")
    others.module("leaving.py", "raise SystemExit\n")
    others.module("needing.py", "import not_there\n")
    with pytest.raises(UserError) as caught:
        named_head(name)
    assert REFUSED[name] in str(caught.value)
    code, said = call("check-head", name)
    assert code == 2
    assert REFUSED[name] in said


def test_one_that_raises_is_named_and_the_others_go_on(others: Packages) -> None:
    others.module("raising.py", "1 / 0\n")
    others.module("fine.py")
    others.install("faulty", {"broken": "raising:Head"})
    others.install("sound", {"sound": "fine:Plain"})
    classes, faults = known_heads()
    assert "fcn" in classes
    assert "sound" in classes
    assert list(faults) == ["broken"]
    assert "raising:Head: importing it raises ZeroDivisionError" in faults["broken"]
    code, said = call("list", "heads")
    assert code == 0
    assert "broken cannot be used: raising:Head: importing it raises" in said
    assert " sound " in said
    code, said = call("check-head", "broken")
    assert (code, "raises ZeroDivisionError" in said) == (2, True)


def test_all_heads_are_those_that_can_be_used(
    others: Packages, capsys: pytest.CaptureFixture[str]
) -> None:
    from contextbench.cli.shared import heads_of

    others.module("raising.py", "1 / 0\n")
    others.module("fine.py")
    others.install("two", {"broken": "raising:Head", "sound": "fine:Plain"})
    names = [head.name for head in heads_of("all")]
    assert names[0] == "fcn"
    assert names[-1] == "sound"
    assert "left out: raising:Head: importing it raises" in capsys.readouterr().err


def test_a_name_of_two_plug_ins_is_refused_naming_both(others: Packages) -> None:
    others.module("a.py")
    others.module("b.py")
    others.install("first", {"same": "a:Plain"})
    others.install("second", {"same": "b:Plain"})
    message = "'same' is the name of 2 heads: a:Plain of first 1.2 and b:Plain of second 1.2"
    with pytest.raises(PluginError, match=message):
        named_head("same")
    assert message in known_heads().faults["same"]


def test_a_name_of_a_registered_head_is_refused_naming_both(others: Packages) -> None:
    others.module("a.py", HEAD + "\n\nclass ocr(FCNHead):\n    pass\n")
    others.install("first", {"ocr": "a:Plain"})
    message = "'ocr' is the name of 2 heads: contextbench's own head and a:Plain of first 1.2"
    with pytest.raises(PluginError, match=message):
        named_head("ocr")
    assert named_head("fcn").plugin is None
    assert named_head("a:Plain").name == "Plain"
    with pytest.raises(PluginError, match=r"a:ocr would be called 'ocr'.*contextbench's own head"):
        named_head("a:ocr")


def test_two_classes_of_one_name_are_refused_naming_both(others: Packages, tmp_path: Path) -> None:
    others.module("a.py")
    others.module("b.py")
    with pytest.raises(ConfigError, match=r"a:Plain and b:Plain are both called 'Plain'.*a file"):
        named_heads(["a:Plain", "b:Plain"])
    path = tmp_path / "ocr.yaml"
    path.write_text("head: a:Plain\n")
    with pytest.raises(PluginError, match=r"a:Plain would be called 'ocr' .*as contextbench's own"):
        named_head(str(path))
    others.install("first", {"Plain": "a:Plain"})
    with pytest.raises(PluginError, match=r"b:Plain would be called 'Plain'.*as a:Plain head is"):
        named_head("b:Plain")
    assert named_head("a:Plain").plugin == named_head("Plain").plugin


@pytest.mark.parametrize("name", ["../up", ".hidden", "a\\b"])
def test_a_name_is_one_component_of_a_path(others: Packages, name: str) -> None:
    others.module("a.py")
    others.install("first", {name: "a:Plain", "sound": "a:Plain"})
    classes, faults = known_heads()
    assert "sound" in classes
    assert list(faults) == [name]
    assert "it becomes a folder" in faults[name]


@pytest.mark.slow
def test_the_digest_is_of_all_files_that_a_head_is_made_of(others: Packages) -> None:
    def digest() -> str | None:
        others.forget()
        found = named_head("mine.deep.strips:Plain").plugin
        assert found is not None
        return found.digest

    others.module("mine/__init__.py", "")
    others.module("mine/deep/__init__.py", "")
    others.module("mine/deep/strips.py", "from ..parts import PART\nfrom . import near\n" + HEAD)
    others.module("mine/parts.py", "def f():\n    import mine.late\n\n\nPART = 1\n")
    others.module("mine/deep/near.py", "")
    others.module("mine/late.py", "")
    others.module("mine/unrelated.py", "")
    first = digest()
    others.module("mine/unrelated.py", "# changed\n")
    assert digest() == first
    seen = {first}
    for name in ("mine/__init__", "mine/parts", "mine/deep/near", "mine/late"):
        others.module(f"{name}.py", (others.folder / f"{name}.py").read_text() + "# changed\n")
        seen.add(digest())
    assert len(seen) == 5


def cell_of(head: HeadConfig) -> Cell:
    setting = open_setting(small.protocol(), None)
    return Cell(setting, head, 0, Precision())


def test_changed_code_is_another_run(others: Packages, tmp_path: Path) -> None:
    """The record has the code, the finished run is refused by it, and so is the unfinished one."""
    others.module("a.py")
    execution = small.execution(tmp_path)
    cell = cell_of(named_head("a:Plain"))
    record = run_cell(cell, execution)
    assert record.status == "done", record.failure
    assert record.head["plugin"]["place"] == "a:Plain"
    assert stored_run(cell, execution) is not None
    assert "a:Plain, a plug-in: place a:Plain, distribution none" in _head_entry(record)[1]

    others.module("a.py", HEAD + "# changed\n")
    other = cell_of(named_head("a:Plain"))
    assert other.identity["head"] != cell.identity["head"]
    with pytest.raises(ConfigError, match=r"another configuration: head\.plugin\.digest was"):
        stored_run(other, execution)
    with pytest.raises(PluginError, match=r"head Plain: its head is a:Plain, sources .*Restore"):
        head_class(cell.head)  # as a job does, whose machine has other code


@pytest.mark.slow
def test_records_import_what_is_installed_or_named_alone(others: Packages, tmp_path: Path) -> None:
    trace = tmp_path / "imported"
    source = f"from pathlib import Path\nPath({str(trace)!r}).touch()\n{HEAD}"
    others.module("a.py", source)
    execution = small.execution(tmp_path / "runs")
    cell = cell_of(named_head("a:Plain"))
    run_cell(cell, execution)
    folder = cell.folder(execution.out)
    trace.unlink()

    others.forget()
    with pytest.raises(PluginError, match=r"its head is a:Plain, which is not installed.*--plugin"):
        open_run(folder, execution)
    image = tmp_path / "image.png"
    Image.new("RGB", (64, 64)).save(image)
    command = ("predict", folder, image, "-o", tmp_path / "predicted")
    exporting = ("export", folder, "--format", "safetensors", "-o", tmp_path / "exported")
    for each in (command, exporting):
        code, said = call(*each)
        assert (code, "--plugin a:Plain" in said) == (2, True), said
    assert not trace.exists()

    plugins.permit("a:Plain")
    open_run(folder, execution)
    others.forget()
    others.install("package", {"plain": "a:Plain"})
    open_run(folder, execution)
    others.module("a.py", source + "# changed\n")
    with pytest.raises(PluginError, match=r"sources .*; here it is a:Plain of package 1\.2"):
        open_run(folder, execution)


def test_a_record_says_which_package_is_needed(others: Packages) -> None:
    others.module("a.py")
    others.install("strip-package", {"strip": "a:Plain"})
    head = named_head("strip")
    assert head.plugin is not None
    others.module("a.py")  # forgotten
    for path in (others.folder / "strip_package-1.2.dist-info").iterdir():
        path.unlink()
    others.forget()
    with pytest.raises(PluginError, match=r"run: its head .*install strip-package 1\.2, or name"):
        plugins.check_available(plugins.HEADS, head.plugin, "run")


def test_a_record_cannot_name_what_it_likes() -> None:
    """Without the key that states the code a place is not even looked for."""
    with pytest.raises(PluginError, match="unknown head 'os:system'"):
        head_class(HeadConfig(name="x", head="os:system"))


def test_configurations_made_in_python_state_their_code_too(others: Packages) -> None:
    others.module("a.py")
    assert identified(HeadConfig(name="x", head="a:Plain")).plugin is not None


# Heads that break the contract, by what `compare` refuses before the first step.
UNFIT = {
    "return out._replace(logits=out.logits[:, 1:])": "logits have shape (2, 8, 9, 7), expected (2, "
    "9, 9, 7): (N, K, h, w)",
    "return out._replace(logits=out.logits[..., 1:])": "logits have shape (2, 9, 9, 6)",
    "return out._replace(pixel_aux={})": "training emits no 'aux', which loss_weights have",
    "return out._replace(image_aux={'more': out.logits[:, :, 0, 0]})": "loss_weights lack 'more'",
    "return out.logits": "forward returns a Tensor, not a HeadOutput",
    "return out._replace(pixel_aux={'aux': out.logits[:, 1:]})": "pixel_aux 'aux' have shape",
    "raise KeyError('odd')": "its forward pass raises KeyError: 'odd'",
    "return out._replace(logits=out.logits.double())": "logits are torch.float32, torch.float64",
}


@pytest.mark.parametrize("end", quick(UNFIT, list(UNFIT)[:2]))
def test_a_head_of_another_form_is_refused_before_the_first_step(
    others: Packages, end: str
) -> None:
    source = f"{HEAD}    def forward(self, features):\n        out = super().forward(features)\n"
    others.module("a.py", f"{source}        {end}\n".replace("    pass\n", ""))
    with pytest.raises(ConfigError) as caught:
        check_heads(small.protocol(), [named_head("a:Plain")], 9)
    assert f"head 'Plain', a:Plain: {UNFIT[end]}" in str(caught.value)


def test_a_head_that_cannot_be_built_is_refused(others: Packages, tmp_path: Path) -> None:
    others.module("a.py", HEAD.replace("pass", "def __init__(self, *given, **more): [][1]"))
    with pytest.raises(ConfigError, match=r"a:Plain: building it raises IndexError: list index"):
        check_heads(small.protocol(), [named_head("a:Plain")], 9)
    others.module("a.py")
    path = tmp_path / "h.yaml"
    path.write_text("head: a:Plain\noptions: {widht: 9}\n")
    with pytest.raises(ConfigError, match=r"'Plain' has no option 'widht'; did you mean 'width'?"):
        check_heads(small.protocol(), [named_head(str(path))], 9)


def changed(name: str, change: Callable[[HeadOutput], HeadOutput]) -> type[FCNHead]:
    def forward(self: FCNHead, features: Features) -> HeadOutput:
        return change(FCNHead.forward(self, features))

    return type(name, (FCNHead,), {"forward": forward})


def added(output: HeadOutput, more: Callable[[Tensor], Tensor]) -> HeadOutput:
    return output._replace(logits=output.logits + more(output.logits))


class Unequal(FCNHead):
    """Its forms differ."""

    def __init__(self, *given: object, implementation: str = "fast", **options: object) -> None:
        super().__init__(*given, implementation=implementation, **options)  # type: ignore[arg-type]
        self.fast = implementation == "fast"

    def forward(self, features: Features) -> HeadOutput:
        output = super().forward(features)
        return added(output, lambda logits: 1e-3 * logits * self.fast)


class Remembering(FCNHead):
    def forward(self, features: Features) -> HeadOutput:
        self.seen = features.layer4 * 1.0  # a tensor with a gradient, which nothing can copy
        features.layer4.add_(1)
        return super().forward(features)


class Idle(FCNHead):
    """With a layer that does nothing."""

    def __init__(self, channels: Channels, num_classes: int, **options: object) -> None:
        super().__init__(channels, num_classes, **options)  # type: ignore[arg-type]
        self.idle = torch.nn.Conv2d(2, 2, 1)


def mean_of_batch(logits: Tensor) -> Tensor:
    return logits.mean(dim=0, keepdim=True)


NAN = changed("Nan", lambda out: added(out, lambda logits: logits * torch.nan))
BATCH = changed("Batch", lambda out: added(out, mean_of_batch))
BROKEN: list[tuple[Callable[..., FCNHead], Callable[[Subject], object], str]] = [
    (NAN, partial(contract.shapes, implementation="fast", size=(2, 3)), "NaN or infinite"),
    (BATCH, partial(contract.images_are_independent, implementation="fast"), "rest of the batch"),
    (
        BATCH,
        partial(contract.logits_are_classifier_of_context, implementation="fast"),
        "classifier",
    ),
    (
        Unequal,
        partial(contract.forms_are_one_function, size=(2, 3, 2), training=True),
        "the fast form differs from the reference: Tensor",
    ),
    (
        Remembering,
        partial(contract.inputs_are_left_alone, implementation="fast"),
        "forward writes into layer4",
    ),
    (Idle, partial(contract.every_parameter_is_trained, implementation="fast"), "idle.weight gets"),
    (Idle, contract.options_are_accepted, "no keyword-only options: 'dropout', 'impl.*', 'width'"),
]


@pytest.mark.parametrize(("head", "check", "message"), BROKEN)
def test_what_is_broken_is_said_in_plain_words(
    head: Callable[..., FCNHead], check: Callable[[Subject], object], message: str
) -> None:
    with pytest.raises(Broken, match=message):
        check(Subject(head, {"width": 8}))


def test_a_command_says_what_is_broken(others: Packages, tmp_path: Path) -> None:
    others.module("a.py", HEAD.replace("pass", "classifier = None"))
    path = tmp_path / "h.yaml"
    path.write_text("head: a:Plain\noptions: {widht: 9}\n")
    code, said = call("check-head", path)
    assert code == 1
    assert "h: a:Plain BROKEN takes its options" in said
    assert "it has no option 'widht'; allowed: 'aux_width'" in said
    assert "it raises TypeError" in said  # so nothing else was tried
    assert said.endswith("0 of 2 promises are kept")


def test_every_check_is_among_what_a_command_runs() -> None:
    """Public functions of the contract whose first parameter is the head that is checked."""
    cases = [case for _, cases in contract._promises(Subject(FCNHead)) for case in cases]
    ran = {getattr(check, "func", None) for _, check in cases}
    checks = {
        function
        for name, function in vars(contract).items()
        if inspect.isfunction(function) and not name.startswith("_") and name != "findings"
        if [*inspect.signature(function).parameters][:1] == ["subject"]
    }
    slow = {contract.compiles_with_gradients, contract.eager}  # the latter is part of others
    assert checks - slow == ran


@pytest.mark.parametrize("name", ["fcn", "ocr"])
def test_options_of_a_checked_head_are_narrow(name: str) -> None:
    """As a factor on all widths makes them: 8 of 512, so 4 of 256."""
    subject = narrow_subject(head_class(named_head(name)), {"width": 512})
    assert subject.width == 8
    assert {*subject.options} >= {"width"}
    assert all(value <= 8 for value in subject.options.values())


@pytest.mark.slow
def test_registered_heads_keep_every_promise() -> None:
    for name in known_names():
        head = named_head(name)
        found = list(findings(narrow_subject(head_class(head), head.options)))
        assert len(found) > 20
        assert [each for each in found if each.broken] == [], name
