"""Reading a serial arm of revolute joints from a URDF, and refusing anything else in one clear sentence.

`xml` parses and checks the file; `joints`, `inertia` and `visuals` read what its elements say; `reading` builds the
`chain` of the arm from that. Nothing else reads the file: simulators and viewers get a text of our own (`envs.model`),
made of what was checked here.
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
