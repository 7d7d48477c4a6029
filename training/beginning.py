"""What is said of every lead while nothing tells leads apart: a rate of purchases, and how far it may be off.

A company that begins has no purchases to learn from, and no windows that are over. Its points table gives the order;
the rate is that of what is known so far, with half a purchase in 25 leads (2 %) added: all that is said where nothing
is known, and as good as nothing beside hundreds of leads.
"""

from __future__ import annotations

import numpy as np

from models.model import logit
from models.scorer import Spread
from training.labels import Listings

_BOUGHT, _LEADS = 0.5, 25.0


def rate_so_far(rows: Listings) -> float:
    """Returns the share of leads that buy within the horizon, by what is known of windows over or not over yet.

    Rows of one lead count as one; a window counts as far as it was followed, or whole if what came of it is known.
    """
    label = rows.within(rows.horizon)
    windows = np.where(np.isnan(label), rows.followed / rows.horizon, 1.0).sum()
    times = max(1.0, rows.evidence.rows_a_lead)
    return (float(np.nansum(label)) / times + _BOUGHT) / (float(windows) / times + _LEADS)


def spread_of_rate(rate: float, buyers: int) -> tuple[Spread, float]:
    """Returns the standard deviation of the log-odds of a rate, and that of the shift all leads share: the same.

    By Jeffreys' prior a rate that so many buyers tell of has a gamma distribution whose shape is that number and a
    half; the variance of the logarithm of such a variable is the trigamma function of its shape.
    """
    from scipy.special import polygamma

    deviation = float(np.sqrt(polygamma(1, buyers + _BOUGHT)))
    return ((float(logit(np.array([rate]))[0]), deviation),), deviation
