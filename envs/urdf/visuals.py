"""The shapes, meshes and colours of a link."""

from xml.etree import ElementTree

from envs.urdf.chain import Visual
from envs.urdf.xml import numbers, origin

# The dimensions of each shape: attributes, and how many numbers each holds.
SHAPES: dict[str, dict[str, int]] = {
    "box": {"size": 3},
    "cylinder": {"radius": 1, "length": 1},
    "capsule": {"radius": 1, "length": 1},
    "sphere": {"radius": 1},
    "mesh": {"scale": 3},
}


def materials(robot: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """The materials defined anywhere in the file, by name; the first definition of a name counts."""
    found: dict[str, ElementTree.Element] = {}
    for material in robot.iter("material"):
        if len(material):
            found.setdefault(material.get("name", ""), material)
    return found


def visuals(link: ElementTree.Element, materials: dict[str, ElementTree.Element]) -> tuple[Visual, ...]:
    """The shapes of a link. Raises ValueError for malformed ones."""
    named = f"link '{link.get('name')}'"
    visuals = []
    for element in link.findall("visual"):
        geometry = element.find("geometry")
        shape = next((child for child in geometry if child.tag in SHAPES), None) if geometry is not None else None
        if shape is None:
            continue
        # The scale of a mesh is optional; the dimensions of other shapes are not.
        default = "1 1 1" if shape.tag == "mesh" else None
        size = {}
        for attribute, count in SHAPES[shape.tag].items():
            size[attribute] = numbers(named, shape, shape.tag, attribute, count, default)
        material = element.find("material")
        if material is not None and not len(material):
            material = materials.get(material.get("name", ""))
        visuals.append(
            Visual(
                origin(element, named),
                shape.tag,
                size,
                shape.get("filename", "") if shape.tag == "mesh" else None,
                None if material is None else _colour(material),
            )
        )
    return tuple(visuals)


def _colour(material: ElementTree.Element) -> tuple[float, ...] | None:
    """Red, green, blue and opacity, from 0 to 1; None if missing or invalid, which is no reason to reject an arm."""
    colour = material.find("color")
    if colour is None:
        return None
    try:
        rgba = tuple(float(word) for word in colour.get("rgba", "").split())
    except ValueError:
        return None
    return rgba if len(rgba) == 4 and all(0.0 <= value <= 1.0 for value in rgba) else None
