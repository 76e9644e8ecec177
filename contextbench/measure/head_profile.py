"""The cost of heads alone, in both forms and at several sizes, on features without a backbone.

What papers report, in the scope `context`, beside the whole head, and the part in which the two
forms differ (`core`). All heads, forms and scopes of one size are timed in the same rounds, and so
is every convolution and matrix product that they consist of.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, product
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map_only

from contextbench.config.heads import HeadConfig
from contextbench.measure.counts import (
    FeatureSize,
    count_head_scopes,
    feature_channels,
    meta_features,
)
from contextbench.measure.floors import Operator, operator_call, products
from contextbench.measure.latency import Call, milliseconds
from contextbench.measure.memory import MemoryPrediction, measure_peak_cuda, predict_inference
from contextbench.measure.profile import Timing, sample, stored_counts
from contextbench.models.build import build_configured
from contextbench.models.compiled import Compiled, Mode, empty_cache, without_advice
from contextbench.models.precision import FLOAT32, Precision
from contextbench.records.failures import Failure
from contextbench.records.profiles import FormCost, HeadProfileRecord, MemoryBytes
from contextbench.records.profiles import Timing as StoredTiming
from contextbench.training.environment import environment
from heads import ContextHead, Features
from heads.blocks import TwoForms

SCOPES = ("core", "context", "head")
Run = tuple[nn.Module, tuple[Any, ...]]  # a module and its inputs


@dataclass(frozen=True)
class HeadTiming(Timing):
    """How latency of heads alone is sampled."""

    precision: Precision = FLOAT32


class What(NamedTuple):
    """What of a form runs, and how."""

    scope: str
    direction: Literal["forward", "forward_backward"]
    mode: Mode


class Timed(NamedTuple):
    """Which form of which head a call belongs to."""

    form: int  # its place among the forms of one size
    what: What


class Tried(NamedTuple):
    """What is to be timed of a form, and what the first calls told."""

    calls: dict[What, Call]
    update: dict[str, Any]  # of its cost
    compiled: dict[What, dict[str, Any]]  # of the stored times; with a failure there is no call


@dataclass(frozen=True)
class Form:
    """One head in one implementation at one size."""

    cost: FormCost
    build: Callable[[], ContextHead]
    operators: Mapping[Operator, int]  # of all scopes; empty where the cost is a failure


@dataclass(frozen=True)
class Extent:
    """What is timed of each form, in which modes.

    `backward` is forward and backward together, with gradients of the features and of all
    parameters; batch norm keeps its evaluation form there, as one image cannot train a branch
    pooled to one cell. A core that lets no gradient through (EMANet's) has none to compute, so that
    its two times are of the same work. `floors` are the convolutions and matrix products, each
    alone.
    """

    scopes: Sequence[str] = SCOPES
    backward: bool = False
    floors: bool = False
    modes: Sequence[Mode] = ("eager",)

    @property
    def directions(self) -> list[Literal["forward", "forward_backward"]]:
        return ["forward", "forward_backward"] if self.backward else ["forward"]


def profile_heads(
    sizes: Sequence[FeatureSize],
    heads: Sequence[HeadConfig],
    implementations: Sequence[str],
    num_classes: int,
    timing: HeadTiming,
    extent: Extent | None = None,
) -> HeadProfileRecord:
    """Costs of every head in every implementation on features of every size, batch 1.

    `sizes` have one channel count. Raises `ConfigError` for wrong options.
    """
    costs: list[FormCost] = []
    operators_ms: dict[str, list[float]] = {}
    for size in sizes:
        forms = []
        with timing.task(f"count {_label(size)}", len(heads) * len(implementations)) as progress:
            for head, implementation in product(heads, implementations):
                forms.append(_form(head, implementation, size, num_classes, timing.precision))
                progress(len(forms))
        if timing.rounds:
            with empty_cache():
                timed, measured = _time(forms, size, timing, extent or Extent())
            costs += timed
            operators_ms |= measured
        else:
            costs += [form.cost for form in forms]
    return HeadProfileRecord(
        channels=sizes[0].channels,
        classes=num_classes,
        precision=asdict(timing.precision),
        environment=environment(timing.device, precision=timing.precision),
        rounds=timing.rounds,
        costs=costs,
        operators_ms=operators_ms,
    )


def _form(
    config: HeadConfig,
    implementation: str,
    size: FeatureSize,
    num_classes: int,
    precision: Precision,
) -> Form:
    """Counted and predicted. A head that cannot be is a row with a reason; options are refused."""
    cost = FormCost(
        head=config.name, implementation=implementation, height=size.height, width=size.width
    )

    def build() -> ContextHead:
        options = {**config.options, "implementation": implementation}
        return build_configured(config, feature_channels(size), num_classes, options).eval()

    with torch.device("meta"):
        skeleton = build()
    try:
        counted, operators = _counted(cost, skeleton, meta_features(size), precision)
    except Exception as error:
        return Form(cost.model_copy(update={"failure": Failure.of(error)}), build, {})
    return Form(counted, build, operators)


def _counted(
    cost: FormCost, head: ContextHead, features: Features, precision: Precision
) -> tuple[FormCost, Mapping[Operator, int]]:
    with torch.no_grad():
        inputs = head.context_inputs(features)
    scopes: dict[str, Run] = {"context": (head.context, inputs), "head": (head, (features,))}
    layout = precision.torch_memory_format
    operators = {
        scope: products(module, *given, layout=layout) for scope, (module, given) in scopes.items()
    }
    layouts = {
        scope: sorted({layout for operator in seen for layout in operator.layouts})
        for scope, seen in operators.items()
    }
    memory = {
        scope: _stored_memory(predict_inference(module, *given, precision=precision))
        for scope, (module, given) in scopes.items()
    }
    named = {
        scope: {str(operator): times for operator, times in seen.items()}
        for scope, seen in operators.items()
    }
    counts = stored_counts(count_head_scopes(head, features))
    update = {"counts": counts, "memory": memory, "products": named, "layouts": layouts}
    return cost.model_copy(update=update), {**operators["context"], **operators["head"]}


def _time(
    forms: Sequence[Form], size: FeatureSize, timing: HeadTiming, extent: Extent
) -> tuple[list[FormCost], dict[str, list[float]]]:
    """The costs with their samples, and the samples of the operators that they consist of."""
    features = Features(
        *(torch.randn(stage.shape, device=timing.device) for stage in meta_features(size))
    )
    tried = _prepared(forms, features, size, timing, extent)
    calls = {
        Timed(index, what): call for index, own in tried.items() for what, call in own.calls.items()
    }
    operators = _operator_calls(forms, timing) if extent.floors else {}
    everything = dict(chain[tuple[Timed | str, Call]](calls.items(), operators.items()))
    samples = sample(f"time {_label(size)}", everything, timing.rounds, timing)
    costs = [
        form.cost.model_copy(update={**own.update, "timings": _timings(index, own, samples)})
        for (index, own), form in zip(tried.items(), forms, strict=True)
    ]
    return costs, {name: samples[name] for name in operators}


def _timings(
    index: int, tried: Tried, samples: Mapping[Timed | str, list[float]]
) -> list[StoredTiming]:
    return [
        StoredTiming(
            **what._asdict(),
            latency_ms=samples.get(Timed(index, what), []),
            **tried.compiled.get(what, {}),
        )
        for what in dict.fromkeys([*tried.calls, *tried.compiled])
    ]


def _prepared(
    forms: Sequence[Form], features: Features, size: FeatureSize, timing: HeadTiming, extent: Extent
) -> dict[int, Tried]:
    """What is to be timed of each form, by its place; nothing of one that fails."""
    tried: dict[int, Tried] = {}
    with timing.task(f"try {_label(size)}", len(forms)) as progress:
        for index, form in enumerate(forms):
            tried[index] = Tried({}, {}, {})
            if form.cost.failure is None:
                try:
                    tried[index] = _tried(form, features, timing, extent)
                except (RuntimeError, MemoryError) as error:
                    tried[index] = Tried({}, {"failure": Failure.of(error)}, {})
            progress(index + 1)
    return tried


def _label(size: FeatureSize) -> str:
    return f"heads at {size.height}x{size.width}"


def _operator_calls(forms: Sequence[Form], timing: HeadTiming) -> dict[str, Call]:
    """Each operator of any form once, on random operands of the precision, laid out as they run."""
    unique = {str(operator): operator for form in forms for operator in form.operators}
    return {name: operator_call(unique[name], timing.device, timing.precision) for name in unique}


def _tried(form: Form, features: Features, timing: HeadTiming, extent: Extent) -> Tried:
    """The calls of one form, each run once, so that one that fails does not end the others.

    With them, what their memory was on a device that counts it, and what compiling took. A form
    that cannot be compiled is timed without.
    """
    layout = timing.precision.torch_memory_format
    head = form.build().to(timing.device).to(memory_format=layout)
    features = Features(*(stage.contiguous(memory_format=layout) for stage in features))
    with torch.no_grad(), timing.precision.autocast(timing.device):
        inputs = head.context_inputs(features)
        core = _core_runs(head.context, inputs)
    parts: dict[str, list[Run]] = {
        "core": core,
        "context": [(head.context, inputs)],
        "head": [(head, (features,))],
    }
    calls: dict[What, Call] = {}
    compiled: dict[What, dict[str, Any]] = {}
    for scope, direction, mode in product(extent.scopes, extent.directions, extent.modes):
        if runs := parts[scope]:
            what, make = What(scope, direction, mode), _MAKE[direction]
            if mode == "eager":
                calls[what] = make(runs, timing)
                calls[what]()
            else:
                call = make([(Compiled(m), inputs) for m, inputs in runs], timing)
                compiled[what] = _compiling(call, timing.device)
                if "failure" not in compiled[what]:
                    calls[what] = call
    update = _measured_memory(_forward(parts["context"], timing), timing.device)
    if (what := What("context", "forward", "compile")) in calls:
        compiled[what] |= _measured_memory(calls[what], timing.device)
    return Tried(calls, update, compiled)


def _compiling(call: Call, device: torch.device) -> dict[str, Any]:
    """What the first call of compiled code takes, or why there is none."""
    try:
        return {"compile_seconds": milliseconds(call, device) / 1e3}
    except Exception as error:  # of torch, of the compiler, of the system
        failure = Failure.of(error)
        return {"failure": failure.model_copy(update={"message": without_advice(failure.message)})}


def _core_runs(context: nn.Module, inputs: tuple[Any, ...]) -> list[Run]:
    """The modules of `context` that have two forms, with the inputs that they get in one pass."""
    runs: list[Run] = []
    hooks = [
        module.register_forward_pre_hook(lambda called, given: runs.append((called, given)))
        for module in _two_forms(context)
    ]
    try:
        context(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return runs


def _two_forms(module: nn.Module) -> list[nn.Module]:
    """The outermost modules with two forms."""
    if isinstance(module, TwoForms):
        return [module]
    return [found for child in module.children() for found in _two_forms(child)]


def _forward(runs: Sequence[Run], timing: HeadTiming) -> Call:
    def forward() -> None:
        with torch.inference_mode(), timing.precision.autocast(timing.device):
            for module, inputs in runs:
                module(*inputs)

    return forward


def _forward_backward(runs: Sequence[Run], timing: HeadTiming) -> Call:
    def step() -> None:
        for module, inputs in runs:
            leaves = tree_map_only(Tensor, lambda t: t.detach().requires_grad_(), inputs)
            with timing.precision.autocast(timing.device):
                output = module(*leaves)
            # None where a method lets no gradient through: EMANet's bases are found without.
            results = [t for t in tree_iter(output) if isinstance(t, Tensor) and t.requires_grad]
            with timing.precision.products():
                torch.autograd.backward(results, [torch.ones_like(t) for t in results])
            module.zero_grad(set_to_none=True)

    return step


_MAKE = {"forward": _forward, "forward_backward": _forward_backward}


def _measured_memory(forward: Call, device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {}
    before = torch.cuda.memory_allocated(device)
    peak = measure_peak_cuda(forward, device).allocated_bytes
    return {"measured_activation_peak_bytes": peak - before}


def _stored_memory(prediction: MemoryPrediction) -> MemoryBytes:
    return MemoryBytes(
        peak_bytes=prediction.peak_bytes,
        weights_bytes=prediction.weights_bytes,
        input_bytes=prediction.input_bytes,
        activation_peak_bytes=prediction.activation_peak_bytes,
    )
