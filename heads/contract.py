"""What every head promises, whatever its method, as checks of a small one.

A check takes a `Subject` and raises `Broken`, whose message says in plain words what is not kept.
`findings` runs all of them on one head, which `contextbench check-head` prints; the tests of this
suite run the same functions on every head and variant, each at more sizes.
"""

import ast
import copy
import inspect
import itertools
import pickle
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from heads.blocks import TwoForms
from heads.interface import Channels, ContextHead, Features, HeadOutput, Implementation
from heads.small import CLASSES, Subject, scalar_loss, small_features, tensors

FORMS: tuple[str, ...] = get_args(Implementation)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
MAPS = [(17, 13), (2, 3), (40, 39), (1, 1)]
# Height, width and a batch: dilations 12, 24 and 36 that leave the map, a map that a grid does not
# divide or that is smaller than it, sides without a second pixel, several blocks of queries.
SIZES = [(1, 1, 3), (2, 3, 2), (7, 5, 1), (24, 24, 1), (23, 30, 2), (33, 29, 1)]
LARGE = (65, 65, 1)
PIXEL = (4, 5)  # of maps of 9 x 7

Computed = dict[str, list[Tensor] | dict[str, Tensor]]


class Broken(AssertionError):
    """What a head does not keep of the contract, in plain words."""


def require(kept: bool, broken: str) -> None:
    """Raise `Broken` unless `kept`."""
    if not kept:
        raise Broken(broken)


def require_same(got: Any, expected: Any, broken: str, *, exactly: bool = False) -> None:
    """Raise `Broken` unless two tensors, or nested ones, agree as `assert_close` has it."""
    tolerance = 0.0 if exactly else None

    def said(text: str) -> str:
        return f"{broken}: {' '.join(text.split())}"

    try:
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance, msg=said)
    except AssertionError as error:
        raise Broken(str(error)) from None


def conforms(output: object, features: Features, classes: int, stage: str = "layer4") -> HeadOutput:
    """`output`, if its type, shapes and number format are those of a head on `features`.

    `stage` is the head's `logits_stage`.
    """
    require(
        isinstance(output, HeadOutput),
        f"forward returns a {type(output).__name__}, not a HeadOutput(logits, pixel_aux, "
        "image_aux)",
    )
    assert isinstance(output, HeadOutput)
    require(stage in Features._fields, f"logits_stage is {stage!r}, which is no stage")
    batch, _, *size = getattr(features, stage).shape
    _has_shape("logits", output.logits, (batch, classes, *size), f"(N, K, h, w) of {stage}")
    for kind, terms in (("pixel_aux", output.pixel_aux), ("image_aux", output.image_aux)):
        require(isinstance(terms, Mapping), f"{kind} is a {type(terms).__name__}, not a mapping")
    for name, logits in output.pixel_aux.items():
        where = tuple(logits.shape[2:]) if isinstance(logits, Tensor) else ()
        sizes = {tuple(stage.shape[2:]) for stage in features}
        _has_shape(f"pixel_aux {name!r}", logits, (batch, classes, *where), "(N, K, h', w')")
        require(where in sizes, f"pixel_aux {name!r} is {where}, the size of no stage")
    for name, logits in output.image_aux.items():
        _has_shape(f"image_aux {name!r}", logits, (batch, classes), "(N, K)")
    formats = {logits.dtype for logits in tensors(output)}
    wanted = features.layer4.dtype
    require(formats == {wanted}, f"logits are {_named(formats)}, the features are {wanted}")
    return output


def _has_shape(name: str, found: object, expected: tuple[int, ...], meaning: str) -> None:
    require(isinstance(found, Tensor), f"{name} are a {type(found).__name__}, not a tensor")
    assert isinstance(found, Tensor)
    shape = tuple(found.shape)
    require(shape == expected, f"{name} have shape {shape}, expected {expected}: {meaning}")


def _named(values: set[torch.dtype]) -> str:
    return ", ".join(sorted(map(str, values)))


def terms_are_weighed(head: ContextHead, output: HeadOutput) -> None:
    """In training a head emits the terms of `loss_weights`, and no others."""
    emitted, weighed = {*output.pixel_aux, *output.image_aux}, set(head.loss_weights)
    require(not emitted - weighed, f"loss_weights lack {_listed(emitted - weighed)}")
    require(
        not weighed - emitted,
        f"training emits no {_listed(weighed - emitted)}, which loss_weights have",
    )
    twice = {*output.pixel_aux} & {*output.image_aux}
    require(not twice, f"{_listed(twice)} is both of pixels and of images")


def _listed(names: set[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))


def check_output(head: ContextHead, channels: Channels, classes: int) -> None:
    """Of a head of any width on its device, which may be `meta`, in training: shapes and terms."""
    device = next((p.device for p in head.parameters()), torch.device("cpu"))
    sizes = [(18, 14), *[(9, 7)] * 3]
    stages = [
        torch.zeros(2, count, *size, device=device)
        for count, size in zip(channels, sizes, strict=True)
    ]
    features = Features(*stages)
    training = head.training
    try:
        output = conforms(head.train()(features), features, classes, head.logits_stage)
        terms_are_weighed(head, output)
    finally:
        head.train(training)


def options_are_accepted(subject: Subject) -> None:
    """Keyword-only, those of every head among them; a form that there is not is refused."""
    parameters = list(inspect.signature(subject.head).parameters.values())
    named = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    unknown = set(subject.options) - {"width"} - named
    require(not unknown, f"it has no option {_listed(unknown)}; allowed: {_listed(named)}")
    missing = {"width", "dropout", "implementation"} - named
    require(not missing, f"these are no keyword-only options: {_listed(missing)}")
    positional = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    require(
        positional == ["channels", "num_classes"],
        f"before the options come {', '.join(positional)}; expected channels, num_classes",
    )
    try:
        subject.built("quick")
    except ValueError:
        return
    raise Broken("implementation='quick', which there is not, raises no ValueError")


def has_its_parts(subject: Subject) -> None:
    """A context and a classifier, which costs are reported for."""
    head = subject.built()
    require(isinstance(head, ContextHead), f"it makes a {type(head).__name__}, no ContextHead")
    for part in ("context", "classifier"):
        require(isinstance(getattr(head, part, None), nn.Module), f"it has no module {part!r}")


def shapes(subject: Subject, implementation: str, size: tuple[int, int]) -> None:
    """Of the output and of what `context` makes, all of it finite."""
    head, features = subject.built(implementation), small_features(*size)
    output = conforms(head(features), features, CLASSES, head.logits_stage)
    finite = all(bool(logits.isfinite().all()) for logits in tensors(output))
    require(finite, "logits are NaN or infinite")
    context = head.context(*head.context_inputs(features))
    expected = (2, subject.width, *output.logits.shape[-2:])
    _has_shape("what context makes", context, expected, "(N, width, h, w)")


def layer3_may_be_larger(subject: Subject) -> HeadOutput:
    """Than layer4; the output of it."""
    layer1, layer2, layer3, _ = small_features(6, 10)
    features = Features(layer1, layer2, layer3, small_features(3, 5).layer4)
    head = subject.built()
    return conforms(head(features), features, CLASSES, head.logits_stage)


def training_emits_weighed_terms(subject: Subject) -> None:
    """No term of the loss is dropped or forgotten."""
    head, features = subject.built(), small_features()
    terms_are_weighed(head, conforms(head(features), features, CLASSES, head.logits_stage))


def layers_run(head: ContextHead, call: Callable[[Features], object]) -> set[str]:
    """Names of the head's own parts in which `call` runs a convolution or a linear layer."""
    ran: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.add(name.split(".")[0]))
        for name, module in head.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    call(small_features())
    for hook in hooks:
        hook.remove()
    return ran


def evaluation_runs_what_it_needs(subject: Subject) -> tuple[HeadOutput, set[str]]:
    """Costs of inference count nothing of training; the output and what `context_inputs` ran."""
    head = subject.built().eval()
    preparing = layers_run(head, head.context_inputs)
    extra = layers_run(head, head) - {"context", "classifier"} - preparing
    require(not extra, f"evaluation runs {_listed(extra)}, which only training needs")
    output = head(small_features())
    kept = {*output.image_aux, *(() if preparing else output.pixel_aux)}
    require(not kept, f"evaluation emits {_listed(kept)}, which only training needs")
    return output, preparing


def logits_are_classifier_of_context(subject: Subject, implementation: str) -> None:
    """Or the costs of `context` and `head` would be of something else than what runs."""
    head, features = subject.built(implementation).eval(), small_features()
    expected = head.classifier(head.context(*head.context_inputs(features)))
    require_same(
        head(features).logits, expected, "logits are not classifier(context(*context_inputs))"
    )


def images_are_independent(subject: Subject, implementation: str) -> None:
    """An image's logits in evaluation do not depend on the others of its batch."""
    head = subject.built(implementation).eval()
    features = small_features(batch=3)
    alone = head(Features(*(stage[1:2] for stage in features)))
    text = "in evaluation an image's logits depend on the rest of the batch"
    require_same(head(features).logits[1:2], alone.logits, text)


def every_parameter_is_trained(subject: Subject, implementation: str) -> None:
    """A bias in front of batch norm has gradient zero; weights have not."""
    head = subject.built(implementation)
    torch.autograd.backward(scalar_loss(head(small_features())))
    for name, parameter in head.named_parameters():
        gradient = parameter.grad
        require(gradient is not None, f"{name} gets no gradient")
        assert gradient is not None
        require(bool(gradient.isfinite().all()), f"the gradient of {name} is NaN or infinite")
        moves = parameter.ndim == 1 or bool(gradient.abs().sum() > 0)
        require(moves, f"the gradient of {name} is zero")


def inputs_are_left_alone(subject: Subject, implementation: str) -> None:
    """Other parts of the model need them."""
    features = small_features()
    subject.built(implementation)(features)
    for name, stage, before in zip(Features._fields, features, small_features(), strict=True):
        require_same(stage, before, f"forward writes into {name}", exactly=True)


def forms_share_state(subject: Subject) -> None:
    """A checkpoint of one form is one of the other."""
    fast, reference = (subject.built(form).state_dict() for form in FORMS)
    text = "the forms have other state dicts"
    require(list(fast) == list(reference), f"{text}: {_listed({*fast} ^ {*reference})}")
    require_same(fast, reference, text, exactly=True)


def copies_compute_the_same(subject: Subject, implementation: str) -> None:
    """Running leaves nothing behind that a copy could not take along."""
    head, features = subject.built(implementation).eval(), small_features()
    expected = tensors(head(features))  # before copying
    copies = {"a copy": copy.deepcopy(head)}
    if isinstance(subject.head, type):  # what makes a class of a function cannot be pickled
        copies["a pickle"] = pickle.loads(pickle.dumps(head))
    for name, clone in copies.items():
        text = f"{name} computes something else"
        require_same(tensors(clone(features)), expected, text, exactly=True)


def dropout_acts_in_training_only(subject: Subject, implementation: str) -> None:
    """On every term that is of pixels."""
    head, features = subject.built(implementation, dropout=0.5), small_features()
    for norm in head.modules():  # batch statistics would hide which part changed
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.eval()
    first, second = tensors(head(features)), tensors(head(features))
    pixel_terms = len(first) - len(head(features).image_aux)
    pairs = zip(first[:pixel_terms], second, strict=False)
    acts = all(not torch.equal(one, other) for one, other in pairs)
    require(acts, "with dropout 0.5, two passes in training give equal logits")
    head.eval()
    same = torch.equal(head(features).logits, head(features).logits)
    require(same, "two passes in evaluation give different logits")


def one_image(subject: Subject, implementation: str = "fast") -> str | None:
    """None where a head trains on one image, else how it refuses, which has to name batch norm.

    Frozen statistics need no second image.
    """
    head, features = subject.built(implementation), small_features(batch=1)
    try:
        torch.autograd.backward(scalar_loss(head(features)))
    except ValueError as error:
        told = str(error)
        named = "batch norm" in told.lower() or "more than 1 value per channel" in told
        require(named, f"training on one image raises {told!r}, which does not name batch norm")
        for norm in head.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.eval()
        head(features)
        return told
    return None


def features_of(size: tuple[int, int, int], layout: str) -> Features:
    """In float64; `size` is height, width and batch."""
    height, width, batch = size
    stages = small_features(height, width, batch=batch, dtype=torch.float64)
    return Features(*(s.contiguous(memory_format=LAYOUTS[layout]) for s in stages))


def computed(call: nn.Module, head: ContextHead, features: Features) -> Computed:
    """Outputs of `call`, which is `head` or made of it, every gradient, and statistics after it."""
    stages = Features(*(stage.detach().requires_grad_() for stage in features))
    output = call(stages)
    leaves = [*stages, *head.parameters()]
    gradients = torch.autograd.grad(
        scalar_loss(output), leaves, allow_unused=True, materialize_grads=True
    )
    return {
        "outputs": [tensor.detach() for tensor in tensors(output)],
        "gradients of the stages": list(gradients[: len(stages)]),
        "gradients of the parameters": list(gradients[len(stages) :]),
        "state": head.state_dict(),
    }


def eager(
    subject: Subject, form: str, size: tuple[int, int, int], layout: str, training: bool
) -> Computed:
    """What a form computes in float64."""
    head = subject.built(form).double().train(training)
    if layout == "channels_last":
        head = head.to(memory_format=torch.channels_last)
    return computed(head, head, features_of(size, layout))


def forms_are_one_function(
    subject: Subject, size: tuple[int, int, int], training: bool, layout: str = "contiguous"
) -> None:
    """In float64, with weights as sharp as trained ones: outputs, all gradients, statistics."""
    expected = eager(subject, "reference", size, "contiguous", training)
    got = eager(subject, "fast", size, layout, training)
    dtypes = {tensor.dtype for tensor in expected["outputs"] if isinstance(tensor, Tensor)}
    require(dtypes == {torch.float64}, f"of features in float64, logits are {_named(dtypes)}")
    require_same(got, expected, "the fast form differs from the reference")


def forms_are_one_function_on_a_large_map(subject: Subject) -> None:
    """Without gradients, which take seconds there: more than four thousand pixels."""
    fast, reference = (subject.built(form).double().eval() for form in FORMS)
    features = features_of(LARGE, "contiguous")
    with torch.no_grad():
        got, expected = tensors(fast(features)), tensors(reference(features))
    require_same(got, expected, "the fast form differs from the reference")


def bfloat16_is_near(subject: Subject, implementation: str, training: bool) -> None:
    """To the formula in float64, with weights as sharp as trained ones.

    bfloat16 keeps 8 bits: 0.4 % a rounding, of which a head chains about ten. In training, batch
    norm over nearly equal regions or groups magnifies that, in both forms alike.
    """
    exact = subject.built("reference").double().train(training)
    with torch.no_grad():
        expected = tensors(exact(small_features(dtype=torch.float64)))

    def error(form: str) -> float:
        head = subject.built(form).train(training)
        with torch.autocast("cpu", torch.bfloat16):
            output = head(small_features())
            loss = scalar_loss(output)
        gradients = torch.autograd.grad(loss, list(head.context.parameters()))
        finite = all(bool(gradient.isfinite().all()) for gradient in gradients)
        require(finite, "under autocast to bfloat16 a gradient is NaN or infinite")
        got = [tensor.detach().double() for tensor in tensors(output)]
        return max(float((a - b).norm() / b.norm()) for a, b in zip(got, expected, strict=True))

    limit = 0.02 + 2 * error("reference") if training else 0.03
    off = error(implementation)
    require(off < limit, f"autocast to bfloat16 moves logits by {off:.1%}, above {limit:.1%}")


def compiles(subject: Subject) -> None:
    """To one graph that computes the same; in evaluation, without gradients. Seconds."""
    head, features = subject.built().double().eval(), features_of((24, 24, 1), "contiguous")
    torch.compiler.reset()
    compiled = torch.compile(head, backend="eager", fullgraph=True)
    with torch.no_grad():
        got, expected = tensors(compiled(features)), tensors(head(features))
    require_same(got, expected, "torch.compile changes what is computed")


def compiles_with_gradients(
    subject: Subject, implementation: str, size: tuple[int, int, int], training: bool
) -> None:
    """To one graph, with the same outputs, gradients and statistics. Seconds each."""
    head = subject.built(implementation).double().train(training)
    expected = eager(subject, implementation, size, "contiguous", training)
    torch.compiler.reset()
    compiled: Any = torch.compile(head, backend="aot_eager", fullgraph=True)
    got = computed(compiled, head, features_of(size, "contiguous"))
    require_same(got, expected, "torch.compile changes what is computed")


class Logits(nn.Module):
    """What inference serves: the stages of a backbone in, one tensor out."""

    def __init__(self, head: ContextHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, *stages: Tensor) -> Tensor:
        output: HeadOutput = self.head(Features(*stages))
        return output.logits


def exported(head: ContextHead, features: Features, **options: Any) -> nn.Module:
    """The program that `torch.export` makes of `head`: stages in, logits out."""
    program = torch.export.export(Logits(head), tuple(features), **options)
    return program.module()


def same_logits(program: nn.Module, head: ContextHead, maps: Sequence[tuple[int, int]]) -> None:
    """Raise `Broken` unless a program gives the logits of `head` at each size."""
    for size in maps:
        features = small_features(*size)
        require_same(program(*features), head(features).logits, f"exported, it differs at {size}")


def exports(subject: Subject) -> None:
    """To a program that gives the same logits at the size that it was made for."""
    head, features = subject.built().eval(), small_features()
    same_logits(exported(head, features), head, [(17, 13)])


def attention_is_a_map(subject: Subject, implementation: str) -> None:
    """Where a head has attention to show: shapes, signs and a meaning."""
    head = subject.built(implementation)
    for name, (values, meaning, part, places) in head.attend(small_features(9, 7), PIXEL).items():
        require(values.dtype == torch.float32, f"attention {name!r} is {values.dtype}")
        require(not values.requires_grad, f"attention {name!r} has a gradient")
        require(bool((values >= 0).all()), f"attention {name!r} is negative or NaN somewhere")
        require(bool(meaning), f"attention {name!r} does not say what it means")
        if part == "pixel":
            _has_shape(f"attention {name!r}", values, (2, 9, 7), "(N, h, w)")
        else:
            shape = (2, *values.shape[1:2])
            _has_shape(f"attention {name!r}", values, shape, f"(N, n) over n times {part}")
        if places is not None:
            _has_shape(f"places of {name!r}", places, (*values.shape, 9, 7), "(N, n, h, w)")


def attending_changes_nothing(subject: Subject, implementation: str) -> None:
    """Even where some parts train and others do not: statistics, modes, outputs, attributes."""
    head, features = subject.built(implementation), small_features(9, 7)
    head.train()
    head.classifier.eval()
    modes = [module.training for module in head.modules()]
    state = copy.deepcopy(head.state_dict())
    attributes = [set(vars(module)) for module in head.modules()]
    with torch.no_grad():
        before = tensors(copy.deepcopy(head).eval()(features))
    head.attend(features, PIXEL)
    kept = [module.training for module in head.modules()] == modes
    require(kept, "attend leaves parts in another mode")
    kept = [set(vars(module)) for module in head.modules()] == attributes
    require(kept, "attend leaves attributes behind")
    require_same(head.state_dict(), state, "attend changes the state", exactly=True)
    with torch.no_grad():
        after = tensors(head.eval()(features))
    require_same(after, before, "attend changes what is computed", exactly=True)


def attention_is_that_of_each_image(subject: Subject) -> None:
    """Both forms show the same, and of one image what they show of it in a batch."""
    features, pixel = small_features(7, 10), (6, 9)
    first, second = (subject.built(form).attend(features, pixel) for form in FORMS)
    require(list(first) == list(second), "the forms show attention of other names")
    alone = subject.built().attend(Features(*(stage[1:] for stage in features)), pixel)
    for name, part in first.items():
        require_same(second[name].values, part.values, f"the forms show another {name!r}")
        text = f"{name!r} of an image depends on the rest of the batch"
        require_same(alone[name].values, part.values[1:], text)


def replaced(part: type) -> list[str]:
    """What `part` defines although a class below it that has forms defines it, too."""
    bases = [base for base in part.__mro__[1:] if {"_fast", "_reference"} & {*vars(base)}]
    own = {name for name, value in vars(part).items() if callable(value)} - {"__init__"}
    return [f"{base.__name__}.{name}" for base in bases for name in own & {*vars(base)}]


def forms_are_apart(part: type) -> None:
    """Of a class with forms: neither calls the other, and no form of a base calls what it replaces.

    A form that calls a method of its object calls that of a subclass: compose instead.
    """
    require(not replaced(part), f"{part.__name__} replaces {', '.join(replaced(part))}")
    for form, other in (("_fast", "_reference"), ("_reference", "_fast")):
        if not hasattr(part, form):
            continue
        source = textwrap.dedent(inspect.getsource(getattr(part, form)))
        called = {n.attr for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute)}
        require(other not in called, f"{part.__name__}.{form} calls {other}")


def parts_with_forms_are_sound(subject: Subject) -> None:
    """Profiling times the forms of `TwoForms` against each other."""
    for part in {type(module) for module in subject.built().modules()}:
        if issubclass(part, TwoForms):
            forms_are_apart(part)


class Finding(NamedTuple):
    """A promise, and how it is broken; None where it is kept."""

    promise: str
    broken: str | None


Case = tuple[str, Callable[[], object]]  # what is special about it, and the check


def findings(subject: Subject) -> Iterator[Finding]:
    """Each promise with the first case that breaks it. Ends early where nothing can be built."""
    for promise, cases in _promises(subject):
        finding = Finding(promise, _first_broken(cases))
        yield finding
        if promise == BUILT and finding.broken is not None:
            return


def _first_broken(cases: Iterator[Case]) -> str | None:
    for name, check in cases:
        try:
            check()
        except Exception as error:  # whatever a head of others raises is what is wrong with it
            return f"{name}: {_plain(error)}" if name else _plain(error)
    return None


def _plain(error: Exception) -> str:
    """What went wrong, and where in the head's code unless a check says it."""
    text = " ".join(str(error).split())
    if isinstance(error, Broken):
        return text
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}, line {last.lineno}"
    return f"it raises {type(error).__name__}: {text} ({where})"


BUILT = "can be built, with a context and a classifier"


def _promises(subject: Subject) -> Iterator[tuple[str, Iterator[Case]]]:
    once, each_form = partial(_once, subject), partial(_of_forms, subject)
    yield "takes its options and those of every head", once(options_are_accepted)
    yield BUILT, once(has_its_parts)
    yield "gives logits of the right shape at any size", _at_sizes(subject)
    yield "takes stages of different sizes", once(layer3_may_be_larger)
    yield "emits in training exactly the weighed terms", once(training_emits_weighed_terms)
    yield "runs in evaluation what inference needs", once(evaluation_runs_what_it_needs)
    yield "gives the classifier of the context", each_form(logits_are_classifier_of_context)
    yield "keeps images of a batch apart in evaluation", each_form(images_are_independent)
    yield "trains every parameter", each_form(every_parameter_is_trained)
    yield "leaves its inputs alone", each_form(inputs_are_left_alone)
    yield "has one state dict in both forms", once(forms_share_state)
    yield "can be copied and pickled", each_form(copies_compute_the_same)
    yield "drops out in training only", each_form(dropout_acts_in_training_only)
    yield "trains on one image, or says why not", each_form(one_image)
    yield "is one function in both forms", _in_both_forms(subject)
    yield "keeps its forms apart", once(parts_with_forms_are_sound)
    yield "is near in bfloat16", _in_bfloat16(subject)
    yield "compiles to one graph", once(compiles)
    yield "exports", once(exports)
    yield "shows attention as maps", each_form(attention_is_a_map)
    yield "changes nothing by showing it", each_form(attending_changes_nothing)
    yield "shows the attention of each image", once(attention_is_that_of_each_image)


def _once(subject: Subject, check: Callable[[Subject], object]) -> Iterator[Case]:
    yield "", partial(check, subject)


def _of_forms(subject: Subject, check: Callable[[Subject, str], object]) -> Iterator[Case]:
    for form in FORMS:
        yield f"{form} form", partial(check, subject, form)


def _at_sizes(subject: Subject) -> Iterator[Case]:
    for form, size in itertools.product(FORMS, MAPS):
        yield f"{form} form, {size[0]} x {size[1]}", partial(shapes, subject, form, size)


def _in_bfloat16(subject: Subject) -> Iterator[Case]:
    for form, training in itertools.product(FORMS, (True, False)):
        mode = "training" if training else "evaluation"
        yield f"{form} form, {mode}", partial(bfloat16_is_near, subject, form, training)


def _in_both_forms(subject: Subject) -> Iterator[Case]:
    for size, layout in itertools.product(SIZES, LAYOUTS):
        for training in (True, False) if size[2] > 1 or _trains_alone(subject) else (False,):
            mode = "training" if training else "evaluation"
            name = f"{size[0]} x {size[1]}, {size[2]} images, {layout}, {mode}"
            yield name, partial(forms_are_one_function, subject, size, training, layout)
    yield f"{LARGE[0]} x {LARGE[1]}", partial(forms_are_one_function_on_a_large_map, subject)


def _trains_alone(subject: Subject) -> bool:
    try:
        return one_image(subject) is None
    except Exception:  # which is a finding of its own
        return False
