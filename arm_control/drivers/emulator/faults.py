"""Faults of emulated servos, and how they are written: KIND[=PROBABILITY][@SECONDS][:ID]."""

import re
from dataclasses import dataclass

# Faults of single replies, with a probability.
REPLY_FAULTS = {
    "lost": "a reply is not sent",
    "corrupt": "a reply has a wrong bit",
    "late": "a reply is 50 ms late",
    "duplicated": "a reply is sent twice",
    "noise": "a reported position is off by up to 5 ticks",
}
# Faults of a servo that begin at one time.
EVENTS = {
    "overload": "the servo reports an overload, which switches its torque off",
    "voltage": "the input voltage falls to 5 V: an alarm, torque stays on",
    "overheating": "the servo reports overheating, which switches its torque off",
    "encoder": "the servo reports an encoder error: an alarm, torque stays on",
    "shock": "the servo reports an electrical shock, which switches its torque off",
    "reboot": "the servo reboots, without torque",
    "stuck": "the joint is blocked",
    "slow": "the servo turns no faster than half of its velocity limit",
    "frozen": "the reported position stays constant; the servo still moves",
    "drift": "the reported position drifts by 2 degrees/s; the servo still moves to its goals",
    "swapped": "the servo and the next one on the bus report each other's position",
    "wrap": "the reported position jumps by a whole turn",
    "silent": "the servo does not reply",
    "disconnect": "the port closes, as when a cable is pulled",
}
KINDS = (*REPLY_FAULTS, *EVENTS)
# The bit of the hardware error status that each sets.
ERROR_BITS = {"voltage": 0, "overheating": 2, "encoder": 3, "shock": 4, "overload": 5}

_GRAMMAR = re.compile(r"([a-z]+)(?:=([^@:]+))?(?:@([^@:=]+))?(?::(\d+))?")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, of all servos or of the servo `id`.

    It begins `at_s` seconds after the torque was first on, or immediately (None). Each reply goes
    wrong with `probability`; events have none. Raises ValueError for values that do not fit the kind.
    """

    kind: str
    probability: float | None = None
    at_s: float | None = None
    id: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown fault {self.kind!r}; available: {', '.join(KINDS)}")
        if self.kind in EVENTS and self.probability is not None:
            raise ValueError(f"fault {self.kind} happens once: expected no probability, got {self.probability}")
        if self.kind in REPLY_FAULTS and (self.probability is None or not 0.0 <= self.probability <= 1.0):
            got = "none" if self.probability is None else f"{self.probability:g}"
            raise ValueError(
                f"fault {self.kind}: expected a probability from 0 to 1, as in {self.kind}=0.01, got {got}"
            )
        if self.at_s is not None and not 0.0 <= self.at_s < float("inf"):
            raise ValueError(f"fault {self.kind}: expected seconds from 0 on, as in {self.kind}@5, got {self.at_s}")
        if self.kind == "disconnect" and self.id is not None:
            raise ValueError("fault disconnect: expected no servo: it closes the port of all servos")
        if self.kind == "swapped" and self.id is None:
            raise ValueError("fault swapped: expected a servo, as in swapped@5:2, which is swapped with the next one")

    def concerns(self, id: int) -> bool:
        """Return True if it is a fault of this servo."""
        return self.id is None or self.id == id

    def __str__(self) -> str:
        """The text from which `parse_fault` makes the same fault."""
        text = self.kind
        if self.probability is not None:
            text += f"={self.probability!r}".removesuffix(".0")
        if self.at_s is not None:
            text += f"@{self.at_s!r}".removesuffix(".0")
        if self.id is not None:
            text += f":{self.id}"
        return text


def parse_fault(text: str) -> Fault:
    """Read a fault, such as "lost=0.01" or "overload@5:2". Raises ValueError with the syntax and the kinds."""
    match = _GRAMMAR.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        kind, probability_text, seconds_text, id_text = match.groups()
        probability = None if probability_text is None else float(probability_text)
        at_s = None if seconds_text is None else float(seconds_text)
    except ValueError:
        raise ValueError(
            f"expected a fault as KIND[=PROBABILITY][@SECONDS][:ID], such as lost=0.01 or overload@5:2, got {text!r}; "
            f"available: {', '.join(KINDS)}"
        ) from None
    return Fault(kind, probability, at_s, None if id_text is None else int(id_text))
