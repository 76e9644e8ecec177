"""What a ranking says, in sentences that several figures share."""

from contextbench.statistics.intervals import Ranking


def draws_of(ranking: Ranking) -> str:
    """How often and how the images were drawn."""
    draws = f"{ranking.resampling.resamples:,}".replace(",", "\u00a0")
    images = f"{draws} draws of {ranking.images} images"
    if ranking.clusters is not None:
        return f"{images} in {ranking.clusters} clusters"
    return images if ranking.block == 1 else f"{images} in blocks of {ranking.block} neighbours"


def not_separated(ranking: Ranking, one: str, other: str) -> bool:
    """Whether the split cannot tell two heads apart; False for heads that are not ranked."""
    return any(
        {pair.first, pair.second} == {one, other} and not pair.separated for pair in ranking.pairs
    )


def best_sentence(ranking: Ranking) -> str:
    """Which heads the split cannot separate from the best."""
    best, *alike = ranking.best_group
    if not alike:
        return f"This split separates {best} from every other head."
    if len(alike) + 1 == len(ranking.heads):
        return f"This split separates no head from {best}."
    return f"This split cannot separate from {best}: {', '.join(alike)}."
