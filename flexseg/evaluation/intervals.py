"""Bootstrap confidence intervals over groups.

    bootstrap_groups(numerators, denominators)   # [G, M], [G, M] -> [M, 2]

Groups (patients, slides) are resampled, not images, because images of one patient are not independent. With few groups the interval is rough; with
fewer than `MIN_GROUPS` there is none. It does not cover the variance between training runs.
"""

import numpy as np

RESAMPLES, LEVEL, SEED, MIN_GROUPS = 2000, 0.95, 0, 3
_ENTRIES_AT_ONCE = 4_000_000  # weights in memory at a time: 32 MB for any number of groups


def bootstrap_groups(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Percentile bootstrap (Efron 1979) of M scores, each a quotient of two sums over G groups.

    Args:
      numerators: float [G, M]: sum over the cases of the group (for a mean over cases), or score of the group (for a mean over groups).
      denominators: float [G, M]: number of cases of the group, or 1; 0 where the score is undefined for the group.

    Returns:
      Lower and upper bounds float64 [M, 2], deterministic; nan where no resample has a value.
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
