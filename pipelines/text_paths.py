"""The paths of latents from noise to a picture, and how straight they are. Numpy only.

A path is an array (steps + 1, numbers): the latent before every step and the one that was decoded, flattened. Its
beginning is noise of variance 1 with every scheduler, its end the picture's latent: `Moment.x` is scaled so.
"""

from typing import NamedTuple

import numpy as np


class Plane(NamedTuple):
    """A path as it is drawn: from (0, 0) to (1, 0), both axes in units of the straight distance."""

    points: np.ndarray  # (steps + 1, 2): along the straight line; away from it, where the path departs furthest
    shown: float  # share of the squared departure that this one direction holds; the rest is across all others
    detour: float  # length over straight distance, in all dimensions: 1 is straight
    dimensions: int


def path(made) -> np.ndarray:
    """What `trace` made -> the path of its latents"""
    latents = [*(moment.x for moment in made.moments), made.latent]
    return np.stack([x.numpy().ravel() for x in latents]).astype(np.float64)


def detour(points: np.ndarray) -> float:
    """Length of a path over the straight distance of its ends: 1 if it is straight."""
    length = np.linalg.norm(np.diff(points, axis=0), axis=1).sum()
    return float(length / np.linalg.norm(points[-1] - points[0]))


def plane(points: np.ndarray) -> Plane:
    """Where a path can be seen best: along from its beginning to its end, and the strongest direction across that."""
    straight = points[-1] - points[0]
    distance = np.linalg.norm(straight)
    relative = (points - points[0]) / distance
    along = relative @ straight / distance
    departure = relative - np.outer(along, straight / distance)
    _, strength, directions = np.linalg.svd(departure, full_matrices=False)
    up = departure @ directions[0]
    up = up if up.sum() >= 0 else -up  # a direction has no sign: every path bends upwards
    whole = (strength**2).sum()
    shown = float(strength[0] ** 2 / whole) if whole > 1e-9 else 1.0  # of a straight path nothing is left out
    return Plane(np.stack([along, up], axis=1), shown, detour(points), len(straight))
