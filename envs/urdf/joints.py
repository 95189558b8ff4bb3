"""Axis and limits of a joint, and an acceleration limit where the file has none."""

import math
from xml.etree import ElementTree

import numpy as np

from envs.urdf.chain import Array, Link
from envs.urdf.xml import numbers

# URDF has no acceleration limit; the additional attribute `acceleration` of <limit> gives one. Without it, joints reach
# full speed in this time, or in the longer time that their torques need when all of them move the stretched arm.
LEAST_TIME_TO_FULL_SPEED_S = 0.15
LEAST_TORQUE_LEFT = 0.1  # for acceleration, beside gravity, as a fraction of the effort
LEAST_EFFORT_NM = 1e-4
GRAVITY_M_S2 = 9.81
# Limits in radians are often rounded to three or four decimals: 1.571 and 1.5708 mean 90 degrees.
LIMIT_ROUNDING_RAD = 5e-4


def axis(joint: ElementTree.Element) -> Array:
    """The unit vector (3,) of a joint's axis, in its own frame."""
    named = f"joint '{joint.get('name')}'"
    direction = np.array(numbers(named, joint.find("axis"), "axis", "xyz", 3, "1 0 0"))
    length = float(np.linalg.norm(direction))
    if length < 1e-6:
        raise ValueError(f"{named}: expected an axis, got one of no length")
    return direction / length


def limits(joint: ElementTree.Element, time_to_full_speed_s: float) -> tuple[float, float, float, float, float]:
    """Lower and upper angle, speed and acceleration in degrees, and effort in N m."""
    lower, upper, effort, velocity = _limit_numbers(joint, "lower", "upper", "effort", "velocity")
    (acceleration,) = _limit_numbers(joint, "acceleration", default=velocity / time_to_full_speed_s)
    lower_deg = _whole_degrees(lower)
    upper_deg = _whole_degrees(upper)
    if lower_deg >= upper_deg or min(velocity, acceleration) <= 0 or effort < LEAST_EFFORT_NM:
        got: dict[str, str] = {}
        for element in joint.findall("limit"):
            got.update(element.attrib)
        raise ValueError(
            f"joint '{joint.get('name')}': expected lower < upper, a positive velocity and an effort of at least "
            f"{LEAST_EFFORT_NM:g} N m, got {got}"
        )
    return lower_deg, upper_deg, math.degrees(velocity), math.degrees(acceleration), effort


def _whole_degrees(limit_rad: float) -> float:
    """A limit in degrees: the whole degree that it was rounded from, if there is one."""
    limit_deg = math.degrees(limit_rad)
    whole_deg = float(round(limit_deg))
    return whole_deg if abs(math.radians(whole_deg) - limit_rad) <= LIMIT_ROUNDING_RAD else limit_deg


def _limit_numbers(joint: ElementTree.Element, *names: str, default: float = 0.0) -> list[float]:
    """Finite numbers of a joint's <limit>."""
    name = joint.get("name")
    element = joint.find("limit")
    if element is None or "velocity" not in element.attrib or "effort" not in element.attrib:
        raise ValueError(f"joint '{name}' requires a <limit> with lower, upper, effort, velocity")
    return [numbers(f"joint '{name}'", element, "limit", key, 1, repr(default))[0] for key in names]


def time_to_full_speed(all_links: list[Link], turning: list[ElementTree.Element]) -> float:
    """Time in seconds in which all joints together can reach full speed with the arm stretched out horizontally.

    An upper bound: each link counts as far from each joint as the lengths allow.
    """
    # Distances along the stretched arm: of joints with their speed and effort, and of centres of mass with their mass.
    places: list[float] = []
    joints: list[tuple[float, float, float]] = []
    links: list[tuple[float, float]] = []
    for link in all_links:
        place = float(np.linalg.norm(link.origin.xyz_m))
        if link.parent is not None:
            place += places[link.parent]
        places.append(place)
        if link.joint is not None:
            velocity, effort = _limit_numbers(turning[link.joint], "velocity", "effort")
            joints.append((place, velocity, effort))
        if link.inertial is not None and link.carrier is not None:
            links.append((place + float(np.linalg.norm(link.inertial.origin.xyz_m)), link.inertial.mass_kg))
    times = [LEAST_TIME_TO_FULL_SPEED_S]
    for at, _, effort in joints:
        # Gravity torque, and angular momentum of the links beyond the joint when all joints are at full speed:
        # time = momentum / (effort - gravity torque)
        beyond = [(centre, centre - at, mass) for centre, mass in links if centre >= at]
        weight = sum(mass * lever * GRAVITY_M_S2 for _, lever, mass in beyond)
        momentum = 0.0
        for centre, lever, mass in beyond:
            for other, speed, _ in joints:
                momentum += mass * lever * max(centre - other, 0.0) * speed
        if effort >= LEAST_EFFORT_NM:
            times.append(momentum / max(effort - weight, LEAST_TORQUE_LEFT * effort))
    return max(times)
