"""Where the project and the tests' data are."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
DESK = TESTS / "urdfs" / "three_joints_90.urdf"  # an arm of three joints of -90 to 90 degrees
