"""Faults that an emulated servo can be given, and how they are written: KIND[=PROBABILITY][@SECONDS][:ID]."""

import re
from dataclasses import dataclass

# What goes wrong with some of the answers: these want a probability.
ANSWER_FAULTS = {
    "lost": "an answer does not come",
    "corrupt": "an answer comes with a wrong bit",
    "late": "an answer comes 50 ms late",
    "duplicated": "an answer comes twice",
    "noise": "a position read is off by up to 5 ticks",
}
# What happens to a servo at one time.
EVENTS = {
    "overload": "the servo reports an overload, which switches its torque off",
    "voltage": "the input voltage falls to 5 V: an alarm, torque stays on",
    "overheating": "the servo reports that it is too hot, which switches its torque off",
    "encoder": "the servo reports a broken encoder: an alarm, torque stays on",
    "shock": "the servo reports an electrical shock, which switches its torque off",
    "reboot": "the servo starts anew, without torque",
    "stuck": "the joint does not move any more",
    "slow": "the servo turns no faster than half of its velocity limit",
    "frozen": "the position read stays as it is; the servo still moves",
    "drift": "the position read drifts by 2 degrees/s; the servo still moves to its goals",
    "swapped": "the servo and the next one on the bus answer with each other's position",
    "wrap": "the position read jumps by a whole turn",
    "silent": "the servo answers no more",
    "disconnect": "the port is gone, as when a cable is pulled",
}
KINDS = (*ANSWER_FAULTS, *EVENTS)
# The bit of the hardware error status that each sets.
ERROR_BITS = {"voltage": 0, "overheating": 2, "encoder": 3, "shock": 4, "overload": 5}

_GRAMMAR = re.compile(r"([a-z]+)(?:=([^@:]+))?(?:@([^@:=]+))?(?::(\d+))?")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: of all servos unless an `id` is given, from `at_s` seconds after the first torque on.

    With None for `at_s` it is there from the start. `probability` is that of an answer to go wrong; events have none.
    """

    kind: str
    probability: float | None = None
    at_s: float | None = None
    id: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"fault: wanted one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.kind in EVENTS and self.probability is not None:
            raise ValueError(f"fault {self.kind}: wanted no probability, since it happens once, got {self.probability}")
        if self.kind in ANSWER_FAULTS and (self.probability is None or not 0.0 <= self.probability <= 1.0):
            got = "none" if self.probability is None else f"{self.probability:g}"
            raise ValueError(f"fault {self.kind}: wanted a probability from 0 to 1, as in {self.kind}=0.01, got {got}")
        if self.at_s is not None and not 0.0 <= self.at_s < float("inf"):
            raise ValueError(f"fault {self.kind}: wanted seconds from 0 on, as in {self.kind}@5, got {self.at_s}")
        if self.kind == "disconnect" and self.id is not None:
            raise ValueError("fault disconnect: wanted no servo, since it takes the whole port")
        if self.kind == "swapped" and self.id is None:
            raise ValueError("fault swapped: wanted a servo, as in swapped@5:2, which swaps with the next one")

    def concerns(self, id: int) -> bool:
        """Whether this servo has it."""
        return self.id is None or self.id == id

    def __str__(self) -> str:
        """As `parse_fault` reads it, with all digits."""
        return (
            self.kind
            + ("" if self.probability is None else f"={self.probability!r}".removesuffix(".0"))
            + ("" if self.at_s is None else f"@{self.at_s!r}".removesuffix(".0"))
            + ("" if self.id is None else f":{self.id}")
        )


def parse_fault(text: str) -> Fault:
    """The fault that `text` says, such as "lost=0.01" or "overload@5:2". Raises ValueError with what is wanted."""
    match = _GRAMMAR.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        kind, probability, seconds, id = match.groups()
        share, at_s = (None if number is None else float(number) for number in (probability, seconds))
    except ValueError:
        raise ValueError(
            f"wanted a fault as KIND[=PROBABILITY][@SECONDS][:ID], such as lost=0.01 or overload@5:2, got {text!r}; "
            f"available: {', '.join(KINDS)}"
        ) from None
    return Fault(kind, share, at_s, None if id is None else int(id))
