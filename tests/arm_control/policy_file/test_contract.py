"""The contract: lossless as JSON, and only ValueError for anything that is none."""

import dataclasses
import hashlib
import json
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arm_control.policy_file.contract import Contract, GoldenSamples, JointContract, TensorContract
from arm_control.process.printing import LONGEST_TEXT
from arm_control.runner import PolicyRunner
from arm_control.runs.config import TrainConfig
from envs.imperfections import Imperfections

SMALL = JointContract("base", 0.0, 90.0, 200.0, 1000.0)
CONTRACT = Contract(
    schema_version=4,
    arm="arm",
    joints=[SMALL],
    arm_urdf="<robot/>",
    control_rate_hz=30.0,
    environment="ArmReach-v0",
    goal_tolerance_m=0.01,
    path=None,
    speed_m_s=None,
    imperfections="ideal",
    inputs=[TensorContract("joint_angle_deg", 1, "degrees", "angles"), TensorContract("goal_m", 3, "metres", "goal")],
    output=TensorContract("target_deg", 1, "degrees", "targets"),
    agent="ddpg",
    config_sha256="0" * 64,
    versions={"python": "3.11.0"},
    golden=GoldenSamples({"joint_angle_deg": [[0.1]], "goal_m": [[0.1, 0.2, 0.3]]}, [[45.0]], 1e-3),
)

numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)  # half of a surrogate pair is no text
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)


def changed(path: str, value: Any) -> str:
    """The contract's JSON with the value at a dotted path replaced."""
    content = json.loads(CONTRACT.to_json())
    *parents, last = path.split(".")
    place: Any = content
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    place[int(last) if isinstance(place, list) else last] = value
    return json.dumps(content)


@given(
    name=texts,
    lower=st.floats(-36_000, 0),
    width=st.floats(1e-3, 36_000),
    speed=st.floats(0.1, 1e5),
    rate=st.floats(1, 10_000),
    sample=st.lists(numbers, min_size=3, max_size=3),
    target=numbers,
    versions=st.dictionaries(texts, texts, max_size=3),
)
def test_json_gives_back_an_equal_contract_to_the_last_bit(
    name: str,
    lower: float,
    width: float,
    speed: float,
    rate: float,
    sample: list[float],
    target: float,
    versions: dict[str, str],
) -> None:
    contract = dataclasses.replace(
        CONTRACT,
        arm=name,
        joints=[JointContract(name, lower, lower + width, speed, speed)],
        control_rate_hz=rate,
        versions=versions,
        golden=GoldenSamples({"joint_angle_deg": [[target]], "goal_m": [sample]}, [[target]], 1e-3),
    )
    back = Contract.from_json(contract.to_json())
    assert back == contract
    assert [x.hex() for x in back.golden.inputs["goal_m"][0]] == [x.hex() for x in sample]  # -0.0 is not 0.0
    assert back.to_json() == contract.to_json()


def test_a_real_policys_contract_comes_back_equal(tiny_policy: Path) -> None:
    contract = PolicyRunner.load(tiny_policy).contract
    assert Contract.from_json(contract.to_json()) == contract
    assert json.loads(contract.to_json()) == dataclasses.asdict(contract)


def test_joint_names_and_limits_follow_the_joints_order() -> None:
    contract = dataclasses.replace(CONTRACT, joints=[SMALL, JointContract("elbow", -5.0, 80.0, 100.0, 500.0)])
    assert contract.joint_names == ("base", "elbow")
    limits = contract.limits
    assert (limits.lower_deg, limits.upper_deg) == ((0.0, -5.0), (90.0, 80.0))
    assert (limits.max_speed_deg_s, limits.max_acceleration_deg_s2) == ((200.0, 100.0), (1000.0, 500.0))


REQUIRED = [field.name for field in dataclasses.fields(Contract) if field.default is dataclasses.MISSING]


@pytest.mark.parametrize("field", REQUIRED)
def test_a_missing_field_is_named(field: str) -> None:
    content = json.loads(CONTRACT.to_json())
    del content[field]
    with pytest.raises(ValueError, match="schema version None" if field == "schema_version" else f"`{field}`"):
        Contract.from_json(json.dumps(content))


@pytest.mark.parametrize("path", ["arm", "joints", "control_rate_hz", "goal_tolerance_m", "output", "golden"])
def test_a_field_of_another_type_is_named(path: str) -> None:
    with pytest.raises(ValueError, match=rf"\$\.{path}"):
        Contract.from_json(changed(path, None))


@pytest.mark.parametrize("version", [1, 5, 0, -1, "2", None, [2], 23, 10**30])
def test_another_schema_version_is_refused_with_what_to_do(version: Any) -> None:
    with pytest.raises(ValueError, match=r"schema version .*this program reads 2, 3 and 4: export the policy again"):
        Contract.from_json(changed("schema_version", version))


@pytest.mark.parametrize("version", [2, 3])
def test_a_contract_of_an_older_version_is_read(version: int) -> None:
    older = dataclasses.replace(CONTRACT, schema_version=version)
    assert Contract.from_json(changed("schema_version", version)) == older


def test_a_contract_keeps_measured_imperfections() -> None:
    ranges = Imperfections(action_delay_s=(0.031, 0.037), servo_lag_s=(0.1, 0.1 + 2**-50)).to_json()
    contract = dataclasses.replace(CONTRACT, imperfections=ranges)
    assert Contract.from_json(contract.to_json()) == contract


@pytest.mark.parametrize(
    "value", ["ruff", "", {"servo_lag": [0, 1]}, {"servo_lag_s": [1, 0]}, {"servo_lag_s": [0]}, {"payload_kg": [-1, 0]}]
)
def test_imperfections_that_are_none_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"the contract is malformed: .*(imperfections|servo_lag_s|payload_kg)"):
        Contract.from_json(changed("imperfections", value))


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '"text"', "1", "{}garbage", "\x00", '{"a": NaN}', "[" * 10**5])
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the contract"):
        Contract.from_json(text)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("control_rate_hz", 0.0, "control_rate_hz"),
        ("control_rate_hz", -30.0, "control_rate_hz"),
        ("control_rate_hz", 1e300, "control_rate_hz"),
        ("control_rate_hz", 1e-6, "control_rate_hz is 1e-06; expected 1 to 10000"),
        ("control_rate_hz", 5e-324, "control_rate_hz"),
        ("goal_tolerance_m", 5e-324, "goal_tolerance_m"),
        ("goal_tolerance_m", 1e300, "goal_tolerance_m"),
        ("speed_m_s", 1e-300, "speed_m_s"),
        ("joints.0.upper_deg", 1e300, "expected angles"),
        ("joints.0.max_speed_deg_s", 5e-324, "expected speeds"),
        ("joints.0.max_acceleration_deg_s2", 1e300, "expected accelerations"),
        ("joints", [], "joint limits"),
        ("joints.0.lower_deg", 90.0, "lower < upper"),
        ("joints.0.max_speed_deg_s", 0.0, "positive speeds"),
        ("joints.0.max_acceleration_deg_s2", -1.0, "positive speeds and accelerations"),
        ("golden.target_deg", [], "golden samples"),
        ("golden.target_deg", [[1.0], [2.0]], "golden samples of 'joint_angle_deg'"),
        ("golden.target_deg", [[1.0, 2.0]], "golden samples of 'target_deg'"),
        ("golden.inputs.goal_m", [[1.0, 2.0]], "golden samples of 'goal_m'"),
        ("golden.inputs", {"goal_m": [[1.0, 2.0, 3.0]]}, "golden samples do not match its inputs"),
        ("golden.inputs.more", [[1.0]], "golden samples do not match its inputs"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(path: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Contract.from_json(changed(path, value))


def read_or_refused(text: str) -> Contract | None:
    """A contract, or none if it is refused as it should be: by a ValueError of one short line."""
    try:
        return Contract.from_json(text)
    except ValueError as error:
        said = str(error)
    assert said
    assert said.isprintable()
    assert len(said) <= LONGEST_TEXT
    return None


@settings(max_examples=500)
@given(st.text() | json_values.map(json.dumps))
def test_no_text_and_no_json_raises_anything_but_value_error(text: str) -> None:
    assert read_or_refused(text) is None


PATHS = [
    *(field.name for field in dataclasses.fields(Contract)),
    *(f"joints.0.{field.name}" for field in dataclasses.fields(JointContract)),
    *(f"inputs.1.{field.name}" for field in dataclasses.fields(TensorContract)),
    *(f"output.{field.name}" for field in dataclasses.fields(TensorContract)),
    *(f"golden.{field.name}" for field in dataclasses.fields(GoldenSamples)),
    "golden.inputs.goal_m",
    "golden.inputs.goal_m.0",
    "golden.target_deg.0.0",
]


def outcome(text: str) -> str:
    """Whether a contract is read or refused; one that is read holds what Python's own JSON reads there."""
    contract = read_or_refused(text)
    if contract is None:
        return "refused"
    assert dataclasses.asdict(contract) == json.loads(text)
    assert Contract.from_json(contract.to_json()) == contract
    return "read"


def test_any_value_in_any_field_is_read_or_refused_with_value_error() -> None:
    outcomes = set()

    @settings(max_examples=500)
    @given(path=st.sampled_from(PATHS), value=json_values | st.floats(-1e3, 1e3) | st.integers(-3, 3))
    def check(path: str, value: Any) -> None:
        outcomes.add(outcome(changed(path, value)))

    check()
    assert outcomes == {"read", "refused"}


@pytest.fixture(scope="module")
def real(tiny_policy: Path) -> str:
    """A real policy's contract, as it stands in its file."""
    return PolicyRunner.load(tiny_policy).contract.to_json()


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value inside one."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


@pytest.mark.slow
def test_a_real_contract_with_any_values_replaced_is_read_or_refused(real: str) -> None:
    outcomes = set()

    @settings(max_examples=500)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        content = json.loads(real)
        for _ in range(data.draw(st.integers(1, 3))):
            found = list(places(content))
            container, key = found[data.draw(st.integers(0, len(found) - 1))]
            # As often one of the larger values, which are few beside the numbers of the golden samples.
            if data.draw(st.booleans()):
                container = content
                key = data.draw(st.sampled_from(sorted(content)))
            container[key] = data.draw(json_values | st.just("x" * 10_000) | st.just([0.0] * 1000))
        outcomes.add(outcome(json.dumps(content)))

    check()
    assert outcomes == {"read", "refused"}


def test_a_real_contract_with_characters_changed_is_read_or_refused(real: str) -> None:
    outcomes = set()

    @settings(max_examples=300)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        text = real
        for _ in range(data.draw(st.integers(1, 3))):
            at, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 3))
            text = text[:at] + data.draw(st.text(max_size=3)) + text[at + length :]
        outcomes.add(outcome(text))

    check()
    assert outcomes == {"read", "refused"}


def number(path: str, written: str) -> str:
    """The contract's JSON with a number in it written so, which need not be one that Python would write."""
    return changed(path, "NUMBER").replace('"NUMBER"', written)


@pytest.mark.parametrize("written", ["1e999", "-1e999", "NaN", "Infinity", "1" * 5000])
@pytest.mark.parametrize(
    "path",
    [
        "joints.0.upper_deg",
        "joints.0.max_speed_deg_s",
        "control_rate_hz",
        "goal_tolerance_m",
        "speed_m_s",
        "golden.tolerance_deg",
        "golden.target_deg.0.0",
        "golden.inputs.goal_m.0.1",
    ],
)
def test_a_number_that_is_not_finite_is_refused(path: str, written: str) -> None:
    assert read_or_refused(number(path, written)) is None


def test_a_number_too_small_for_a_float_is_zero() -> None:
    contract = read_or_refused(number("golden.target_deg.0.0", "1e-99999999999"))
    assert contract is not None
    assert contract.golden.target_deg[0][0] == 0.0


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("joints", [dataclasses.asdict(SMALL)] * 33, "joints: expected 0 to 32, got 33"),
        ("joints.0.name", "x" * 257, "texts of at most 256 characters, got 257"),
        ("arm", "x" * 10**5, "texts of at most 256"),
        ("inputs.0.meaning", "x" * 257, "texts of at most 256"),
        ("config_sha256", "x" * 257, "texts of at most 256"),
        ("versions", {str(i): "" for i in range(65)}, "versions: expected 0 to 64, got 65"),
        ("versions", {"x" * 257: ""}, "texts of at most 256"),
        (
            "inputs",
            [{"name": str(i), "size": 1, "unit": "", "meaning": ""} for i in range(17)],
            "inputs: expected .*, got 17",
        ),
        ("inputs.1.name", "joint_angle_deg", "one name"),
        ("output.name", "goal_m", "one name"),
        ("inputs.1.size", 0, "size of 'goal_m': expected 1 to 65536, got 0"),
        ("inputs.1.size", -3, "size of 'goal_m': expected .*, got -3"),
        ("output.size", 10**9, "size of 'target_deg': expected"),
        ("arm_urdf", "x" * (2**18 + 1), "arm_urdf's characters: expected 0 to 262144"),
        ("golden.target_deg", [[1.0]] * 17, "golden samples: expected 0 to 16, got 17"),
        ("goal_tolerance_m", 0.0, "goal_tolerance_m is 0"),
        ("speed_m_s", -1.0, "speed_m_s is -1"),
        ("path", "x\n" * 1000, "path"),
    ],
)
def test_what_is_beyond_the_bounds_is_refused_by_name(path: str, value: Any, said: str) -> None:
    assert read_or_refused(changed(path, value)) is None
    with pytest.raises(ValueError, match=said):
        Contract.from_json(changed(path, value))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 2**20,
        '{"a":' * (2**20 // 5),
        "[" + "[]," * (2**20 // 3 - 2) + "[]]",
        '{"schema_version":[' + "[]," * (2**20 // 3 - 10) + "[]]}",
        '{"schema_version":4,"golden":{"target_deg":[' + "[]," * (2**20 // 3 - 20) + "[]]}}",
        '{"schema_version":4,"joints":[' + "{}," * (2**20 // 3 - 20) + "{}]}",
        '{"schema_version":4,"versions":{' + ",".join(f'"{i}":""' for i in range(80_000)) + "}}",
        '{"schema_version":' + "1" * (2**20 - 30) + "}",
        '{"schema_version":4,"control_rate_hz":' + "1" * (2**20 - 50) + "}",
        changed("path", "\n" * (2**18)),
        changed("golden.inputs.goal_m", [[0.5] * 200_000]),
        "x" * (2**20 + 1),
    ],
    ids=range(12),
)
def test_reading_takes_little_time_and_memory_whatever_the_text(text: str) -> None:
    tracemalloc.start()
    begin = time.process_time()
    try:
        assert read_or_refused(text) is None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - begin < 5.0  # a fraction of a second, but for a busy machine and the tracing
    assert peak < 64 * 2**20


def test_the_configurations_hash_goes_by_its_values_and_not_by_their_order(tiny_run: Path) -> None:
    values = json.loads((tiny_run / "config.json").read_text())
    config = TrainConfig.from_json(values)
    shuffled = TrainConfig.from_json(dict(reversed(values.items())))
    assert config.sha256() == shuffled.sha256()
    assert config.sha256() != dataclasses.replace(config, seed=config.seed + 1).sha256()
    text = json.dumps({name: value for name, value in values.items() if name != "version"}, sort_keys=True)
    compact = text.replace(", ", ",").replace(": ", ":")
    assert config.sha256() == hashlib.sha256(compact.encode()).hexdigest()


def test_a_memory_goes_in_and_comes_out_with_its_golden_samples() -> None:
    """The field may be missing: most policies remember nothing."""
    assert "next_memory" not in REQUIRED
    assert [tensor.name for tensor in CONTRACT.outputs] == ["target_deg"]
    memory = TensorContract("memory", 2, "1", "")
    golden = dataclasses.replace(
        CONTRACT.golden, inputs=CONTRACT.golden.inputs | {"memory": [[0.5, 0.25]]}, next_memory=[[0.75, 1.0]]
    )
    contract = dataclasses.replace(
        CONTRACT,
        inputs=[*CONTRACT.inputs, memory],
        golden=golden,
        next_memory=dataclasses.replace(memory, name="next_memory"),
    )
    assert Contract.from_json(contract.to_json()) == contract
    assert [tensor.name for tensor in contract.outputs] == ["target_deg", "next_memory"]
    wrong = [
        (dataclasses.replace(contract, next_memory=None), "not of one size"),
        (
            dataclasses.replace(contract, next_memory=dataclasses.replace(memory, name="next_memory", size=3)),
            "one size",
        ),
        (dataclasses.replace(contract, golden=dataclasses.replace(golden, next_memory=None)), "match its outputs"),
        (dataclasses.replace(contract, golden=dataclasses.replace(golden, next_memory=[[1.0]])), "of 'next_memory'"),
    ]
    for malformed, said in wrong:
        with pytest.raises(ValueError, match=said):
            Contract.from_json(malformed.to_json())


class TestEpisodeSteps:
    """The length of the episodes that a policy was trained on."""

    def test_a_contract_without_it_is_read(self) -> None:
        """Earlier ones have none."""
        content = json.loads(dataclasses.replace(CONTRACT, episode_steps=190).to_json())
        assert Contract.from_json(json.dumps(content)).episode_steps == 190
        del content["episode_steps"]
        assert Contract.from_json(json.dumps(content)).episode_steps is None

    @pytest.mark.parametrize("steps", [0, -1, 10_001, 1.5, "50", 10**30])
    def test_lengths_that_no_episode_has_are_refused(self, steps: Any) -> None:
        """In a message that names the field."""
        with pytest.raises(ValueError, match="episode_steps"):
            Contract.from_json(changed("episode_steps", steps))
