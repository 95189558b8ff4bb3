"""Reading a serial arm of revolute joints from a URDF. Anything else is a ValueError with one clear sentence.

`xml` parses and checks the file, `joints`, `inertia` and `visuals` read its elements, and `reading` builds the `chain`
of the arm. Nothing else reads the file: simulators and viewers get a URDF generated from the chain (`envs.model`).
"""

from envs.urdf.chain import Chain, Inertial, Joint, Link, Origin, Visual
from envs.urdf.joints import GRAVITY_M_S2, LIMIT_ROUNDING_RAD
from envs.urdf.reading import read_chain
from envs.urdf.xml import LARGEST_URDF, decode_urdf

__all__ = [
    "GRAVITY_M_S2",
    "LARGEST_URDF",
    "LIMIT_ROUNDING_RAD",
    "Chain",
    "Inertial",
    "Joint",
    "Link",
    "Origin",
    "Visual",
    "decode_urdf",
    "read_chain",
]
