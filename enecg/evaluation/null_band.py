"""The calibration error that a perfectly calibrated model would show with these records."""

from __future__ import annotations

import numpy as np

from enecg.evaluation.metrics import ECE_BINS, Floats, debiased_calibration_error

_SIMULATIONS = 1000


def null_band(tops: list[list[Floats]], seed: int) -> list[float]:
    """Return the range of the mean error over folds for a perfectly calibrated model.

    Answers are drawn right with the stated probabilities, 1,000 times; the same records, bins
    and debiasing. An error inside the band is what perfect calibration would show as well. The
    band of repeats, which judge the same records, is the mean of theirs: as wide as that of one.

    Parameters
    ----------
    tops : list of R lists of float64 arrays
        Per repeat and fold, the probability of each answer.
    seed : int

    Returns
    -------
    list of two floats
        The 2.5th and 97.5th percentile.
    """
    rng = np.random.default_rng([seed, ECE_BINS])
    bands = [_band_of_one(folds, rng) for folds in tops]
    low, high = np.mean(bands, axis=0)
    return [float(low), float(high)]


def _band_of_one(tops: list[Floats], rng: np.random.Generator) -> Floats:
    """The band of one repeat."""
    total_R = np.zeros(_SIMULATIONS)
    for top_B in tops:
        chunk = max(1, min(_SIMULATIONS, 1_000_000 // max(top_B.size, 1)))
        errors = [
            debiased_calibration_error(
                top_B, rng.random((top_B.size, min(chunk, _SIMULATIONS - start))) < top_B[:, None]
            )
            for start in range(0, _SIMULATIONS, chunk)
        ]
        total_R += np.concatenate(errors) / len(tops)
    return np.percentile(total_R, [2.5, 97.5])
