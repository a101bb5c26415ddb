"""The statistics, against scipy, published definitions and simulations whose truth is known."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from lab.statistics.across_tasks import (
    expected_best,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    stratified_interval,
)
from lab.statistics.comparison import (
    compare_groups,
    compare_paired,
    fewest_seeds,
    holm,
    seeds_to_show,
    sign_flip_test,
    superiority,
)
from lab.statistics.equivalence import ClaimVerdict, expected_extreme, judge_bound, judge_value
from lab.statistics.importance import hyper_parameter_importance
from lab.statistics.intervals import mean_interval, resampling_factor, t_interval
from lab.statistics.sequential import Decision, Race, SequentialTest

RNG = np.random.default_rng


@pytest.mark.parametrize("count", [2, 3, 7, 19])
def test_small_samples_have_students_interval(count):
    values = list(RNG(count).normal(size=count))
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    interval = mean_interval(values)
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert interval.method == "t"


def test_one_value_has_no_interval_and_equal_values_have_an_empty_one():
    assert mean_interval([0.5]) is None
    interval = mean_interval([0.5] * 30)
    assert interval.low == interval.high == 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("count", "draws"), [(3, 6000), (5, 6000), (10, 6000), (20, 1000), (50, 700)])
def test_intervals_cover_what_they_promise(count, draws):
    rng = RNG(count)
    covered = sum(0 in mean_interval(list(rng.normal(size=count))) for _ in range(draws))
    assert abs(covered / draws - 0.95) < 0.015


def test_intervals_of_folds_are_wider_by_the_overlap():
    values = list(RNG(0).normal(size=10))
    plain, wide = t_interval(values), t_interval(values, factor=resampling_factor(10, 0.1))
    # Nadeau & Bengio: the variance of the mean is (1/n + n_test/n_train) times that of the scores
    assert (wide.high - wide.low) / (plain.high - plain.low) == pytest.approx(math.sqrt((1 / 10 + 1 / 9) / (1 / 10)))


@pytest.mark.parametrize("count", [3, 5, 8])
def test_the_sign_flip_test_is_the_share_of_patterns(count):
    values = RNG(count).normal(0.5, size=count)
    patterns = np.array(list(itertools.product([-1, 1], repeat=count)))
    share = np.mean(np.abs(patterns @ values) >= abs(values.sum()) - 1e-12)
    assert sign_flip_test(values) == pytest.approx(share)
    assert sign_flip_test(np.abs(values)) == pytest.approx(2 / 2**count)


def test_paired_and_unpaired_comparisons_agree_with_scipy():
    rng = RNG(1)
    a, b = rng.normal(1, size=12), rng.normal(0, 2, size=12)
    paired, groups = compare_paired(a, b, "max"), compare_groups(a, b, "max")
    assert paired.p_t == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert groups.p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert paired.superiority == pytest.approx(stats.mannwhitneyu(a, b).statistic / 144)
    assert compare_paired(a, b, "min").superiority == pytest.approx(1 - paired.superiority)


def test_equal_scores_differ_in_nothing():
    same = compare_paired([0.5, 0.6, 0.7], [0.5, 0.6, 0.7], "max")
    assert (same.difference, same.p, same.superiority, same.effect_size) == (0, 1.0, 0.5, None)


@pytest.mark.parametrize("total", [100, 359, 1000, 10000])
def test_what_only_the_rounding_of_floats_tells_apart_is_equal(total):
    """Numbers of images that are right, and the same numbers with `more` in every seed."""
    rng = RNG(total)
    for more in (0, 1, 7):
        right = rng.integers(total // 2, total - 10, size=6)
        two = compare_paired(list((right + more) / total), list(right / total), "max")
        assert two.difference == pytest.approx(more / total)
        assert (two.effect_size, two.p_t) == (None, None)
    gained = [1, -1, 2, -2]
    two = compare_paired(list((right[:4] + gained) / total), list(right[:4] / total), "max")
    assert (two.difference, two.effect_size) == (0, 0)
    assert compare_groups([0.1 + 0.2, 0.5], [0.3, 0.5], "max").difference == 0


def test_holm_as_published():
    # Holm (1979): the smallest p by m, the next by m - 1, and never below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.slow
def test_significance_comes_up_in_few_families_where_nothing_differs():
    rng, found, families = RNG(3), 0, 600
    for _ in range(families):
        scores = rng.normal(size=(4, 8))
        ps = [sign_flip_test(row - scores[0]) for row in scores[1:]]
        found += min(holm(ps)) < 0.05
    assert found / families <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / families)


def test_how_many_seeds():
    assert fewest_seeds() == 6  # 2 / 2^6 < 0.05 < 2 / 2^5
    assert fewest_seeds(4) == 8
    assert seeds_to_show(1.0) == 10  # Cohen's tables: 10 pairs for d = 1
    assert seeds_to_show(0.0) is None


def test_scores_of_tasks_as_rliable_defines_them():
    scores = RNG(2).normal(size=(8, 3))
    ordered = np.sort(scores.ravel())
    assert interquartile_mean(scores) == pytest.approx(ordered[6:18].mean())
    assert performance_profile(scores, [0.0]) == [np.mean(scores > 0)]
    better = scores + 10
    assert probability_of_improvement(better, scores) == 1.0
    assert probability_of_improvement(scores, scores) == 0.5
    interval = stratified_interval(interquartile_mean, scores)
    assert interquartile_mean(scores) in interval


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_expected_best_is_the_mean_over_all_draws(mode):
    scores, best = [0.3, 0.9, 0.5, 0.5], {"max": max, "min": min}[mode]
    for k, value in enumerate(expected_best(scores, mode), start=1):
        drawn = [best(chosen) for chosen in itertools.product(scores, repeat=k)]
        assert value == pytest.approx(np.mean(drawn))


def test_the_key_that_matters_is_the_most_important():
    rng = RNG(0)
    points = [{"lr": float(10 ** rng.uniform(-4, 0)), "width": int(rng.choice([8, 16])), "n": "x"} for _ in range(60)]
    scores = [-abs(math.log10(point["lr"]) + 2) + 0.01 * rng.normal() for point in points]
    importance = hyper_parameter_importance(points, scores, "max")
    assert next(iter(importance)) == "lr"
    assert importance["lr"] > 0.7
    assert hyper_parameter_importance(points[:3], scores[:3], "max") is None


NOISE = {
    "normal": lambda rng, count: rng.normal(size=count),
    "heavy": lambda rng, count: rng.standard_t(2, size=count) - rng.standard_t(2, size=count),
    "rounded": lambda rng, count: np.round(rng.normal(size=count)) / 3,
}


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("most", [12, 30])
def test_a_sequential_test_is_wrong_in_one_of_twenty(noise, most):
    rng, test, simulated = RNG(most), SequentialTest(most, repeats=1), 400
    wrong = sum(test.decide(NOISE[noise](rng, most))[0] != Decision.UNDECIDED for _ in range(simulated))
    assert wrong / simulated <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / simulated)


@pytest.mark.slow
def test_a_sequential_test_needs_fewer_seeds_than_a_fixed_one():
    rng, test, simulated = RNG(0), SequentialTest(30, repeats=1), 300
    verdicts = [test.decide(rng.normal(1, size=30)) for _ in range(simulated)]
    power = np.mean([verdict == Decision.BETTER for verdict, _ in verdicts])
    seeds = np.mean([count for _, count in verdicts])
    assert power > 0.95
    assert seeds <= 0.65 * seeds_to_show(1.0, power=min(power, 0.99))


@pytest.mark.slow
def test_no_difference_is_said_where_it_is_small_and_seldom_where_it_is_not():
    rng, test, simulated = RNG(1), SequentialTest(30, margin=1.5, repeats=1), 300
    small = [test.decide(rng.normal(0, size=30))[0] for _ in range(simulated)]
    large = [test.decide(rng.normal(1.5, size=30))[0] for _ in range(simulated)]
    assert small.count(Decision.NO_DIFFERENCE) / simulated > 0.8
    assert (large.count(Decision.NO_DIFFERENCE) + large.count(Decision.WORSE)) / simulated <= 0.075


def test_a_verdict_needs_enough_pairs_and_keeps_with_more():
    test = SequentialTest(30)
    assert test.fewest == 8
    assert SequentialTest(4).fewest is None
    decision, seeds = test.decide([1.0] * 30)
    assert (decision, seeds) == (Decision.BETTER, 8)
    assert test.decide([1.0] * 7) == (Decision.UNDECIDED, 7)
    assert test.decide([-1.0] * 9) == (Decision.WORSE, 8)
    assert test.decide([0.0] * 30) == (Decision.UNDECIDED, 30)


def test_a_race_drops_the_arms_that_are_worse():
    rng = RNG(5)
    seeds = rng.normal(size=20)
    scores = [seeds + shift + 0.3 * rng.normal(size=20) for shift in (0, 2, 1.9)]
    lost = Race(3, 20).losers(scores)
    assert set(lost) == {0}
    # a pair of arms is compared on the seeds that both have: gaps of a third arm change nothing
    gaps = [scores[0], scores[1], np.where(np.arange(20) % 3 == 0, np.nan, scores[2])]
    assert Race(3, 20).losers(gaps)[0] == lost[0]
    shifted = [scores[0], np.concatenate([[np.nan] * 4, scores[1][4:]]), scores[2]]
    assert Race(3, 20).losers(shifted)[0][0] in (1, 2)


@pytest.mark.parametrize(("truth", "allowed"), [(0.9, 0.03), (0.8, 1.0)])
def test_noise_alone_does_not_make_a_claim_fail_and_a_broken_config_does(truth, allowed):
    rng = RNG(4)
    verdicts = [judge_value(list(rng.normal(truth, 0.01, 5)), 0.9, 0.02).verdict for _ in range(1000)]
    failed = verdicts.count(ClaimVerdict.NOT_REPRODUCED) / 1000
    assert failed <= allowed
    assert (failed > 0.99) == (truth == 0.8)


def test_verdicts_by_equivalence():
    close, wide = [0.899, 0.900, 0.901, 0.9], [0.85, 0.95, 0.9, 0.92]
    assert judge_value(close, 0.9, 0.01).verdict == ClaimVerdict.REPRODUCED
    assert judge_value(wide, 0.9, 0.01).verdict == ClaimVerdict.WITHIN_NOISE
    undecided = judge_value([0.85, 0.93, 0.88], 0.9, 0.01)
    assert undecided.verdict == ClaimVerdict.NOT_YET_DECIDABLE
    assert undecided.seeds > 3
    assert judge_value([0.9], 0.9, 0.01).verdict == ClaimVerdict.NOT_YET_DECIDABLE
    assert judge_value([], 0.9, 0.01).estimate is None
    # the rule of a public record: a mean of at most 3.28 at p < 0.01
    record = [3.2791, 3.2785, 3.2779, 3.2788, 3.2781, 3.2786]
    assert judge_bound(record, 3.28, is_upper=True, alpha=0.01).verdict == ClaimVerdict.REPRODUCED
    assert stats.ttest_1samp(record, 3.28, alternative="less").pvalue < 0.01
    assert judge_bound(record, 3.27, is_upper=True).verdict == ClaimVerdict.NOT_REPRODUCED


def test_the_best_of_several_is_above_the_mean():
    drawn = RNG(0).normal(size=(200_000, 5)).max(axis=1).mean()
    assert expected_extreme(5) == pytest.approx(drawn, abs=0.01)
    assert expected_extreme(1) == 0


def test_superiority_counts_ties_half():
    assert superiority([1, 2], [1, 0], "max") == pytest.approx((0.5 + 1 + 1 + 1) / 4)
