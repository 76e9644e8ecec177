"""Watching a training: what its weights make of a part of a split on the way.

What is watched are the weights that training would end with at that step: averaged ones where it
averages. Counting changes nothing of them, and nothing random is drawn, so that a run ends with the
same bits whether it was watched or not.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from contextbench.config.training import WatchConfig
from contextbench.models.segmenter import Segmenter
from contextbench.records.classes import ClassTotals
from contextbench.records.failures import Failure
from contextbench.records.watched import Watched
from contextbench.statistics.scores import watched_miou
from contextbench.system.files import OutputError
from contextbench.system.interrupt import Interrupted, RankError
from contextbench.training.resume import Progress

Count = Callable[[Sequence[Segmenter]], list[ClassTotals]]
"""Totals of each of several models that share one backbone, or of one model."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Watch:
    """When a training is watched, on what, and who counts.

    Of several processes all call `count` at once, and it raises alike in all.
    """

    config: WatchConfig
    split: str
    steps: int  # of the training, of which the last one is watched too
    count: Count

    def due(self, progress: Progress) -> bool:
        """Whether the step that is done last has to be watched, and was not yet."""
        step = progress.step
        wanted = step > 0 and (step % self.config.every == 0 or step == self.steps)
        return wanted and not any(entry.step == step for entry in progress.watched)

    def adopt(self, progress: Progress) -> None:
        """Leave out, and say so, what was watched on another part before this start."""
        own = [e for e in progress.watched if (e.split, e.images) == self._part]
        if len(own) < len(progress.watched):
            other = next(e for e in progress.watched if (e.split, e.images) != self._part)
            log.warning(
                "train.watch was on %d images of %s until step %d, is on %d of %s: the curve "
                "begins anew",
                other.images,
                other.split,
                progress.step,
                self.config.images,
                self.split,
            )
        progress.watched[:] = own

    def found(self, models: Sequence[Segmenter], step: int) -> list[Watched]:
        """What each of `models`, which share one backbone, makes of the part after a step.

        One that fails has the reason in place of counts: training goes on as if it was not watched.
        Raises `Interrupted` on request.
        """
        if len(models) > 1:
            began = time.monotonic()
            found = self._counted(models)
            if isinstance(found, list):
                seconds = (time.monotonic() - began) / len(models)
                return [self._entry(step, seconds, totals=each) for each in found]
        return [self._alone(model, step) for model in models]

    def _alone(self, model: Segmenter, step: int) -> Watched:
        began = time.monotonic()
        found = self._counted([model])
        seconds = time.monotonic() - began
        if isinstance(found, list):
            return self._entry(step, seconds, totals=found[0])
        return self._entry(step, seconds, failure=Failure.of(found))

    def _counted(self, models: Sequence[Segmenter]) -> list[ClassTotals] | Exception:
        try:
            return self.count(models)
        except (Interrupted, OutputError, RankError):
            raise
        except Exception as error:
            return error

    def _entry(self, step: int, seconds: float, **outcome: Any) -> Watched:
        split, images = self._part
        return Watched(step=step, split=split, images=images, seconds=seconds, **outcome)

    @property
    def _part(self) -> tuple[str, int]:
        return self.split, self.config.images


class Best:
    """The weights of the highest mIoU so far, the earlier ones of equals, held on the CPU."""

    def __init__(
        self, kept: Watched | None = None, weights: dict[str, Tensor] | None = None
    ) -> None:
        self.kept = kept
        self.weights = weights

    def offer(self, entry: Watched, part: nn.Module) -> None:
        """Keep what `part` holds if it scores higher than all before."""
        best = math.nan if self.kept is None else watched_miou(self.kept)
        score = watched_miou(entry)
        if score > best or (math.isnan(best) and not math.isnan(score)):
            self.kept = entry
            self.weights = {
                name: tensor.detach().to("cpu", copy=True)
                for name, tensor in part.state_dict().items()
            }


def said(trainings: Sequence[Progress]) -> str:
    """The last watched score, or those of several trainings, as a line of progress goes on.

    Empty where there is none.
    """
    last = [each.watched[-1] for each in trainings if each.watched]
    if not last:
        return ""
    found = sorted(100 * miou for each in last if not math.isnan(miou := watched_miou(each)))
    ends = dict.fromkeys(f"{miou:.1f}" for miou in (found[:1] + found[-1:]))
    scores = f"{' to '.join(ends)} %" if found else "unknown"
    return f", watched mIoU {scores} at step {last[-1].step}"
