"""The rate of a training that knows when it ends."""

import math


def rate_at(done: float, step: float, highest: float, rise: int = 200) -> float:
    """Rises over `rise` steps, stays until half of the time is over, then falls to zero as a
    cosine."""
    return (
        highest
        * min(1.0, (step + 1) / rise)
        * (1.0 if done < 0.5 else 0.5 + 0.5 * math.cos(math.pi * (done - 0.5) * 2))
    )
