"""A comparison that may be looked at after every pair of runs: a sequential sign-flip test with an error-spending
function."""

import itertools
import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from lab.statistics.comparison import ALPHA, ROUNDING, paired_differences

EXACT = 12  # pairs up to which all sign patterns are enumerated
SPENDING_POWER = 0.8  # between Pocock's boundaries, which stop early, and O'Brien and Fleming's


class Decision(StrEnum):
    BETTER = "BETTER"
    WORSE = "WORSE"
    NO_DIFFERENCE = "NO DIFFERENCE"
    UNDECIDED = "UNDECIDED"


class SequentialTest:
    """Is the mean of paired differences above zero? The answer is valid however often one looks, up to `most` pairs.

    Where the two scores of a pair could as well have been exchanged, all sign patterns of the differences are equally
    likely, whatever their sizes. So the observed path of sums is compared with those of random patterns: at each look
    the level that the spending function (Lan & DeMets 1983) has released goes to the patterns with the largest sums
    that no earlier look has used. No distribution is assumed; With 30 pairs at most, a verdict needs 8.

    most: pairs after which the test ends.  margin: the smallest difference that matters, for the verdict NO DIFFERENCE;
    None: there is no such verdict.  alpha: probability of a false verdict, both sides together.
    """

    def __init__(self, most: int, margin: float | None = None, alpha: float = ALPHA, repeats: int = 2):
        """repeats: times that each pattern of the first 12 pairs occurs, with drawn signs of the later ones."""
        self.most, self.margin, self.alpha = most, margin, alpha
        first = np.array(list(itertools.product([-1, 1], repeat=min(most, EXACT))), np.int8).repeat(repeats, axis=0)
        later = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (len(first), max(0, most - EXACT)))
        self.signs = np.hstack([first, later])

    @property
    def fewest(self) -> int | None:
        """The number of pairs from which a verdict is possible; None where `most` is too few for any."""
        return next((look for look in range(1, self.most + 1) if 2.0**-look <= self.spending(look)), None)

    def decide(self, differences: Sequence[float]) -> tuple[Decision, int]:
        """The verdict on differences, A's score minus B's, where higher is better, and the number of pairs it took."""
        values = np.asarray(differences[: self.most], float)
        if not np.isfinite(values).all():
            raise ValueError("a difference is not finite")
        looks: dict[Decision, int | None] = {
            Decision.BETTER: self.first_rejection(values),
            Decision.WORSE: self.first_rejection(-values),
        }
        if self.margin is not None:  # both ends of (-margin, margin) are rejected
            ends = [self.first_rejection(values + self.margin), self.first_rejection(self.margin - values)]
            looks[Decision.NO_DIFFERENCE] = None if None in ends else max(end for end in ends if end)
        reached = {decision: look for decision, look in looks.items() if look is not None}
        if not reached:
            return Decision.UNDECIDED, len(values)
        first = min(reached, key=reached.__getitem__)
        return first, reached[first]

    def first_rejection(self, values: np.ndarray) -> int | None:
        """The number of values after which a mean of zero or less is rejected; None where it is not."""
        sums = np.zeros(len(self.signs))
        is_left = np.ones(len(self.signs), bool)  # patterns that no look has used
        observed, used = 0.0, 0
        for look, value in enumerate(values, start=1):
            sums += self.signs[:, look - 1] * abs(value)
            observed += value
            allowed = math.floor(self.spending(look) * len(self.signs)) - used
            rest = sums[is_left]
            if observed > 0 and np.count_nonzero(rest >= observed - ROUNDING * observed) <= allowed:
                return look
            if allowed > 0:
                used += self.use(sums, is_left, allowed)
        return None

    def use(self, sums: np.ndarray, is_left: np.ndarray, allowed: int) -> int:
        """Mark the patterns with the largest sums as used, `allowed` of them at most and ties together."""
        left = np.flatnonzero(is_left)
        if allowed >= len(left):
            is_left[:] = False
            return len(left)
        limit = np.partition(sums[left], len(left) - allowed - 1)[len(left) - allowed - 1]  # the largest that stays
        chosen = left[sums[left] > limit + ROUNDING * abs(limit)]
        chosen = chosen[sums[chosen] > 0]
        is_left[chosen] = False
        return len(chosen)

    def spending(self, look: int) -> float:
        """The probability of a false rejection up to this look, of one side."""
        return self.alpha / 2 * (look / self.most) ** SPENDING_POWER


class Race:
    """Drops arms of which another is better, until one is left. An arm that is the best, or as good as the best, is
    dropped with probability alpha at most, as each other arm gets an equal share of it.

    arms: number of arms.  most: as `SequentialTest` takes it.
    """

    def __init__(self, arms: int, most: int, alpha: float = ALPHA):
        self.test = SequentialTest(most, alpha=2 * alpha / max(1, arms - 1))

    def losers(self, scores: Sequence[Sequence[float]]) -> dict[int, tuple[int, int]]:
        """For each arm that is worse than another: that other arm, and the number of pairs it took.

        scores: of each arm, one for each seed, higher is better; NaN where an arm has none. A pair of arms is compared
            on the seeds that both have.
        """
        lost: dict[int, tuple[int, int]] = {}
        for arm, own in enumerate(scores):
            for other, theirs in enumerate(scores):
                look = None if other == arm else self.test.first_rejection(np.array(paired_differences(theirs, own)))
                if look is not None:
                    lost[arm] = min(lost.get(arm, (other, look)), (other, look), key=lambda loss: loss[1])
        return lost
