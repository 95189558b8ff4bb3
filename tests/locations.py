"""Paths of the project, of the tests' data and of URDFs."""

from pathlib import Path

import pybullet_data

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
KUKA = Path(pybullet_data.getDataPath()) / "kuka_iiwa" / "model.urdf"  # an arm of seven joints
DESK = TESTS / "urdfs" / "three_joints_90.urdf"  # an arm of three joints of -90 to 90 degrees
