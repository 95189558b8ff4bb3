"""Parts of URDFs as text, and an arm with oblique axes made of them."""

INERTIA = '<inertia ixx="1e-4" iyy="1e-4" izz="1e-4" ixy="0" ixz="0" iyz="0"/>'
INERTIAL = f'<inertial><origin xyz="0 0 0.05"/><mass value="0.1"/>{INERTIA}</inertial>'
LIMIT = '<limit lower="0" upper="1.5708" effort="2" velocity="3"/>'


def link(name: str, inside: str = INERTIAL) -> str:
    """A link of 100 g."""
    return f'<link name="{name}">{inside}</link>'


def joint(name: str, parent: str, child: str, kind: str = "revolute", inside: str | None = None) -> str:
    """A joint, by default 0.1 m above its parent and about y, from 0 to 90 degrees."""
    if inside is None:
        inside = f'<origin xyz="0 0 0.1"/><axis xyz="0 1 0"/>{"" if kind == "fixed" else LIMIT}'
    return f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>{inside}</joint>'


def robot(*elements: str) -> str:
    """The URDF with these elements."""
    return f'<robot name="parts">{"".join(elements)}</robot>'


# Two oblique joints with rotated frames, and fixed joints before, between and after them.
CROOKED = robot(
    *(link(name) for name in ("base", "bracket", "first", "spacer", "wedge", "second", "tool", "tip")),
    joint("foot", "base", "bracket", "fixed", '<origin xyz="0.01 -0.02 0.03" rpy="0.3 -0.4 0.5"/>'),
    joint(
        "lean",
        "bracket",
        "first",
        inside='<origin xyz="0.05 0.06 -0.07" rpy="-0.7 0.2 1.1"/><axis xyz="0.6 0 -0.8"/>'
        '<limit lower="-1.5" upper="2" effort="1" velocity="3" acceleration="7"/>',
    ),
    joint("offset", "first", "spacer", "fixed", '<origin xyz="0 0.11 0.04"/>'),
    joint("turn", "spacer", "wedge", "fixed", '<origin rpy="1.2 0.9 -2.1"/>'),
    joint(
        "twist",
        "wedge",
        "second",
        inside='<origin xyz="-0.03 0.09 0.12" rpy="0.1 -1.3 0.8"/><axis xyz="1 2 -2"/>'
        '<limit lower="-0.5" upper="1" effort="2" velocity="3"/>',
    ),
    joint("tool_mount", "second", "tool", "fixed", '<origin xyz="0.08 -0.05 0.1" rpy="0.4 0.5 0.6"/>'),
    joint("tip_mount", "tool", "tip", "fixed", '<origin xyz="0.02 0.03 0.04"/>'),
)
