"""Bootstrap intervals over groups: how far a score would move had other patients been drawn.

    bootstrap_groups(numerators, denominators)   # [G, M], [G, M] -> [M, 2]

Groups (patients, slides), not images, are drawn again: images of one patient are no independent evidence. With few groups the interval is
rough, and below `MIN_GROUPS` none is given. It says nothing about another training run with another seed.
"""

import numpy as np

RESAMPLES, LEVEL, SEED, MIN_GROUPS = 2000, 0.95, 0, 3
_ENTRIES_AT_ONCE = 4_000_000  # weights held at once: 32 MB, however many groups there are


def bootstrap_groups(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Percentile intervals (Efron 1979) of M scores, each the quotient of two sums over groups.

    Args:
      numerators: float [G, M], for a mean over cases the sum over the group's cases, for a mean over groups the group's value.
      denominators: float [G, M], the number of cases, or 1; 0 where the group says nothing about the score.

    Returns:
      float64 [M, 2], lower and upper bound; nan where no resample has a value. The same input gives the same bounds.
    """
    groups = len(numerators)
    generator = np.random.default_rng(SEED)
    parts = []
    for start in range(0, RESAMPLES, max(1, _ENTRIES_AT_ONCE // groups)):
        rows = min(max(1, _ENTRIES_AT_ONCE // groups), RESAMPLES - start)
        drawn = generator.integers(0, groups, (rows, groups)) + groups * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            parts.append((weights @ numerators) / (weights @ denominators))
    scores = np.concatenate(parts)
    bounds = np.full((scores.shape[1], 2), np.nan)
    known = ~np.isnan(scores).all(0)
    tail = 100 * (1 - LEVEL) / 2
    if known.any():
        bounds[known] = np.nanpercentile(scores[:, known], (tail, 100 - tail), axis=0).T
    return bounds
