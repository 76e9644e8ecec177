"""What torch's allocator really hands out, for predictions to be held against."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def allocated_peak(call: Callable[[], object]) -> int:
    """The most bytes that live at a time during `call`, of what is allocated in it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        call()
    events = [e for e in trace.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
