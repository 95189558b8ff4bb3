"""Mass and inertia of a link, corrected where rounding has made them physically impossible."""

from xml.etree import ElementTree

import numpy as np

from envs.urdf.chain import Inertial
from envs.urdf.xml import LARGEST_NUMBERS, numbers, origin

# Accepted negative principal moment of inertia, as a fraction of the largest: rounding of the file's digits.
INERTIA_ROUNDING = 1e-3
PRINCIPAL_SLACK = 1e-4


def inertial(link: ElementTree.Element) -> Inertial | None:
    """Mass and inertia of a link; None for a massless frame. Raises ValueError for impossible ones."""
    element = link.find("inertial")
    if element is None:
        return None
    named = f"link '{link.get('name')}'"
    frame = origin(element, named)
    (mass_kg,) = numbers(named, element.find("mass"), "mass", "value", 1)
    if mass_kg < 0.0:
        raise ValueError(f"{named}: expected a mass of at least 0 kg, got {mass_kg:g}")
    if mass_kg == 0.0:
        return None
    inertia = element.find("inertia")
    if inertia is None:
        raise ValueError(f"{named} has a mass but no <inertia>; expected both in its <inertial>")
    diagonal = ("ixx", "iyy", "izz")
    # Products of inertia may be missing, moments may not.
    values = []
    for name in LARGEST_NUMBERS["inertia"]:
        default = None if name in diagonal else "0"
        (value,) = numbers(named, inertia, "inertia", name, 1, default)
        values.append(value)
    return Inertial(frame, mass_kg, _possible_inertia(named, *values))


def _possible_inertia(
    named: str, ixx: float, ixy: float, ixz: float, iyy: float, iyz: float, izz: float
) -> tuple[float, ...]:
    """The inertia, or the nearest possible one where no body can have it, which PyBullet would reject.

    Raises ValueError for a principal moment below 0.
    """
    moments, axes = np.linalg.eigh([[ixx, ixy, ixz], [ixy, iyy, iyz], [ixz, iyz, izz]])
    least, _, largest = moments.tolist()
    if least < -INERTIA_ROUNDING * max(largest, 0.0):
        raise ValueError(
            f"{named}: impossible <inertia>: its principal moments are {', '.join(f'{m:.3g}' for m in moments)} kg m^2;"
            " expected none below 0"
        )
    # PyBullet computes principal axes itself, less accurately.
    slack = PRINCIPAL_SLACK if any((ixy, ixz, iyz)) else 0.0
    possible = np.maximum(moments, slack * largest)
    # A principal moment is at most the sum of the other two.
    possible[2] = min(largest, (1.0 - slack) * (possible[0] + possible[1]))
    if np.array_equal(possible, moments):
        return ixx, ixy, ixz, iyy, iyz, izz
    tensor = axes * possible @ axes.T
    return tuple(float(tensor[row, column]) for row, column in zip(*np.triu_indices(3), strict=True))
