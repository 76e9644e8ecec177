"""The decay of averaged weights (`train.ema`), and over how many steps it averages.

After each step the average becomes  d average + (1 - d) weights,  from the weights after the first
step on. A constant d is for long runs: of 60 steps with d = 0.9999 it leaves 99.4 % of the first
weights. So d grows, as in TensorFlow's ExponentialMovingAverage with `num_updates`:

    d = min(decay, (1 + t) / (10 + t)),      t = steps in the average so far (1 in the second step)

The window, 1 / (1 - d) steps, is what a mean over the last steps would have. It reaches that of
`decay` after nine times as many steps, and is never more than a ninth of those that were made.
"""

RULE = 2  # 1: a constant decay; in fingerprints of protocols that average
LARGEST_PART = 1 / 3  # of a run's steps; a window that is asked for beyond that has a caution


def decay_after(decay: float, steps: int) -> float:
    """The decay where `steps` are in the average so far, 1 or more."""
    return min(decay, (1 + steps) / (10 + steps))


def window(decay: float, steps: int) -> float:
    """Steps that the average of a run of `steps` is over, at its end."""
    return 1 / (1 - decay_after(decay, max(1, steps - 1)))


def caution(decay: float, steps: int) -> str | None:
    """What to know of an average over many of a run's steps, or None."""
    wanted = 1 / (1 - decay)
    if wanted <= LARGEST_PART * steps:
        return None
    return (
        f"train.ema {decay:g} averages weights over about {wanted:,.0f} steps, and the run has "
        f"{steps:,}: the decay is still growing when it ends, over the last "
        f"{window(decay, steps):,.0f} or so."
    )
