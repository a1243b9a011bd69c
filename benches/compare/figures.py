"""Medians, spreads and ratios of interleaved pairs."""

from statistics import median


class Series:
    """Repeated measurements of one figure on both sides; position i of both was measured side by side."""

    def __init__(self, ours, theirs):
        self.ours, self.theirs = list(ours), list(theirs)

    def ratios(self):
        return [a / b for a, b in zip(self.ours, self.theirs) if b]

    def ratio(self):
        """The median of the pairs' ratios: steadier than the ratio of the medians, as drift hits both of a pair."""
        return median(self.ratios())

    def spread(self):
        """The middle half of the pairs' ratios (the two in between for three pairs: smallest and largest)."""
        return middle(self.ratios())


def middle(values):
    """First and third quartile; of fewer than five values the smallest and the largest."""
    values = sorted(values)
    if len(values) < 5:
        return values[0], values[-1]
    return _quantile(values, 0.25), _quantile(values, 0.75)


def percentile(values, share):
    return _quantile(sorted(values), share)


def _quantile(values, share):
    at = share * (len(values) - 1)
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)
