"""ImperfectSimulation: a simulated arm with delays, servo lag, backlash, noise, payload and length errors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from envs.imperfections import NOISE_BOUND, Imperfections
from envs.simulation import Simulation


class ImperfectSimulation:
    """A `Simulation` behind imperfect servos and sensors, with the methods of a `Simulation`.

    A target passes through the action delay, the servo's resolution, its dead band and the backlash. A reading is of
    the servo's side of the backlash, and passes through the observation delay (interpolated between control steps),
    noise and resolution. `angles_deg` and `speeds_deg_s` are the measured values, `true_tip()` is the true position.
    """

    def __init__(self, simulation: Simulation, imperfections: Imperfections) -> None:
        self.simulation = simulation
        self.imperfections = imperfections
        self.arm = simulation.arm
        self._physics_step_s = simulation.control_period_s / simulation.substeps
        count = self.arm.joint_count
        self._use(dict.fromkeys((field.name for field in fields(imperfections)), 0.0), [0.0] * (count + 1))
        self.start(np.random.default_rng(0))

    def randomise(self, generator: np.random.Generator) -> None:
        """Draw an episode's values; call `start` afterwards."""
        values: dict[str, float] = {}
        lengths = [0.0] * (self.arm.joint_count + 1)
        for field in fields(self.imperfections):
            low, high = getattr(self.imperfections, field.name)
            if field.name == "length_error":
                lengths = generator.uniform(low, high, len(lengths)).tolist()
            else:
                values[field.name] = float(generator.uniform(low, high))
        self._use(values, lengths)

    def _use(self, values: dict[str, float], length_errors: Sequence[float]) -> None:
        """Set the values of an episode, by field, and the length errors by link."""
        self.values = values
        self.length_errors = list(length_errors)
        self._delay_steps = round(values["action_delay_s"] / self._physics_step_s)
        self._reading_age_periods = values["observation_delay_s"] / self.simulation.control_period_s
        self._true_tip: Callable[[Sequence[float]], tuple[float, float, float]] = self.arm.tip_position
        if any(self.length_errors):
            self._true_tip = self.arm.tip_with_lengths([1.0 + error for error in self.length_errors])
        self.simulation.set_dynamics(
            servo_lag_s=values["servo_lag_s"],
            payload_kg=values["payload_kg"],
            friction_nm_s_rad=values["friction_nm_s_rad"],
        )

    def start(self, generator: np.random.Generator) -> None:
        """Clear delayed commands and readings, and begin at the arm's present pose; noise comes from `generator`."""
        self._generator = generator
        count = self.arm.joint_count
        self._delayed: list[tuple[int, list[float]]] = []  # targets, each with the physics steps until it takes effect
        self._servo_deg = list(self.simulation.angles_deg)  # the target that each servo follows
        self._backlash_deg = [0.0] * count  # the link's target minus its servo's
        angles = list(self.simulation.angles_deg)
        speeds = list(self.simulation.speeds_deg_s)
        self._readings = [(angles, speeds)] * (math.ceil(self._reading_age_periods) + 1)  # the newest last
        self._sense()

    def command(self, target_deg: Sequence[float]) -> None:
        """Send the servos' targets, which take effect after the action delay.

        Raises ValueError for a non-finite one or one outside the limits.
        """
        self.simulation.check_angles(target_deg)
        self._delayed.append((self._delay_steps, [float(angle) for angle in target_deg]))

    def step(self) -> None:
        """Simulate one control period and measure."""
        # Advance the physics; targets take effect at the physics steps at which they are due.
        done = 0
        substeps = self.simulation.substeps
        while self._delayed and self._delayed[0][0] < substeps:
            due, target = self._delayed.pop(0)
            self.simulation.advance(due - done)
            done = due
            self._act(target)
        self.simulation.advance(substeps - done)
        self._delayed = [(due - substeps, target) for due, target in self._delayed]
        # Measure on the servos' side of the backlash.
        self.simulation.measure()
        measured = [angle - gap for angle, gap in zip(self.simulation.angles_deg, self._backlash_deg, strict=True)]
        self._readings = [*self._readings[1:], (measured, list(self.simulation.speeds_deg_s))]
        self._sense()

    def _act(self, target_deg: list[float]) -> None:
        """Let a target take effect: the servos follow it, and take their links along."""
        dead_band = self.values["dead_band_deg"]
        half_backlash = 0.5 * self.values["backlash_deg"]
        links = []
        for joint, target in enumerate(target_deg):
            # The servo's target, to its resolution; a change within the dead band is ignored.
            target = self._rounded(target)
            if abs(target - self._servo_deg[joint]) < dead_band:
                target = self._servo_deg[joint]
            # The link stays where it is until the servo has taken up the backlash.
            link = self._servo_deg[joint] + self._backlash_deg[joint]
            link = min(max(link, target - half_backlash), target + half_backlash)
            self._servo_deg[joint] = target
            self._backlash_deg[joint] = link - target
            links.append(link)
        self.simulation.command(self.arm.limits.clip(links))

    def _sense(self) -> None:
        """Set the measured angles and speeds."""
        # Readings of the observation delay ago, interpolated between the control steps around that time.
        age = int(self._reading_age_periods)
        fraction = self._reading_age_periods - age
        newer_angles, newer_speeds = self._readings[-1 - age]
        older_angles, older_speeds = self._readings[-2 - age] if fraction > 0 else self._readings[-1 - age]
        angles = _interpolated(newer_angles, older_angles, fraction)
        speeds = _interpolated(newer_speeds, older_speeds, fraction)
        # Noise, then the servo's resolution.
        angle_noise = self.values["angle_noise_deg"]
        speed_noise = self.values["speed_noise_deg_s"]
        if angle_noise or speed_noise:
            count = len(angles)
            noise = self._generator.normal(size=2 * count).clip(-NOISE_BOUND, NOISE_BOUND).tolist()
            angles = [angle + angle_noise * by for angle, by in zip(angles, noise[:count], strict=True)]
            speeds = [speed + speed_noise * by for speed, by in zip(speeds, noise[count:], strict=True)]
        reported = 1.0 - self.values["speed_loss"]
        self.angles_deg = [self._rounded(angle) for angle in angles]
        self.speeds_deg_s = [reported * speed for speed in speeds]

    def _rounded(self, angle: float) -> float:
        """The angle to the servo's resolution."""
        step = self.values["resolution_deg"]
        return round(angle / step) * step if step else angle

    def true_tip(self) -> tuple[float, float, float]:
        """The true tip position in metres, with the true angles and lengths."""
        return self._true_tip(self.simulation.angles_deg)

    def save(self) -> dict[str, Any]:
        """The state of servos and sensors as plain values, without those of the simulation and the generator."""
        return {
            "values": self.values,
            "length_errors": self.length_errors,
            "waiting": list(self._delayed),
            "servo_deg": list(self._servo_deg),
            "play_deg": list(self._backlash_deg),
            "readings": list(self._readings),
            "measured": [self.angles_deg, self.speeds_deg_s],
        }

    def restore(self, state: dict[str, Any], generator: np.random.Generator) -> None:
        """Restore a state of `save`; restore the simulation afterwards."""
        self._use(dict(state["values"]), state["length_errors"])
        self._generator = generator
        self._delayed = [(due, list(target)) for due, target in state["waiting"]]
        self._servo_deg = list(state["servo_deg"])
        self._backlash_deg = list(state["play_deg"])
        self._readings = [(list(angles), list(speeds)) for angles, speeds in state["readings"]]
        angles_deg, speeds_deg_s = state["measured"]
        self.angles_deg = list(angles_deg)
        self.speeds_deg_s = list(speeds_deg_s)


def _interpolated(newer: list[float], older: list[float], fraction: float) -> list[float]:
    """Values at this fraction of the time from the newer to the older ones."""
    return [new + fraction * (old - new) for new, old in zip(newer, older, strict=True)]
