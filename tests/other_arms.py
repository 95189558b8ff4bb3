"""Robot arms of other projects."""

from pathlib import Path

import pybullet_data

KUKA = str(Path(pybullet_data.getDataPath()) / "kuka_iiwa" / "model.urdf")  # seven joints
