"""The contract of a policy file: lossless as JSON, and a ValueError for any other content."""

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


REQUIRED = [field.name for field in dataclasses.fields(Contract) if field.default is dataclasses.MISSING]


def read_or_reject(text: str) -> Contract | None:
    """A contract, or None if it is rejected properly: by a ValueError of one short line."""
    try:
        return Contract.from_json(text)
    except ValueError as error:
        message = str(error)
    assert message
    assert message.isprintable()
    assert len(message) <= LONGEST_TEXT
    return None


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
    """ "read" or "rejected"; a contract that is read has the values that Python's own JSON reader finds."""
    contract = read_or_reject(text)
    if contract is None:
        return "rejected"
    assert dataclasses.asdict(contract) == json.loads(text)
    assert Contract.from_json(contract.to_json()) == contract
    return "read"


@pytest.fixture(scope="module")
def real(tiny_policy: Path) -> str:
    """The text of a real policy's contract."""
    return PolicyRunner.load(tiny_policy).contract.to_json()


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value inside one."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def number(path: str, written: str) -> str:
    """The contract's JSON with a number written this way, which Python need not write."""
    return changed(path, "NUMBER").replace('"NUMBER"', written)


class TestRoundTrip:
    """Contracts written as JSON and read back."""

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
    def test_values_are_read_back_bit_for_bit(
        self,
        name: str,
        lower: float,
        width: float,
        speed: float,
        rate: float,
        sample: list[float],
        target: float,
        versions: dict[str, str],
    ) -> None:
        """Any names and numbers, with the sign of zero."""
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

    def test_a_real_contract_is_read_back_equal(self, tiny_policy: Path) -> None:
        """Its JSON has exactly the dataclass's fields."""
        contract = PolicyRunner.load(tiny_policy).contract
        assert Contract.from_json(contract.to_json()) == contract
        assert json.loads(contract.to_json()) == dataclasses.asdict(contract)

    def test_joint_names_and_limits_follow_the_joints_order(self) -> None:
        """Names and limits are in the order of the joints."""
        contract = dataclasses.replace(CONTRACT, joints=[SMALL, JointContract("elbow", -5.0, 80.0, 100.0, 500.0)])
        assert contract.joint_names == ("base", "elbow")
        limits = contract.limits
        assert (limits.lower_deg, limits.upper_deg) == ((0.0, -5.0), (90.0, 80.0))
        assert (limits.max_speed_deg_s, limits.max_acceleration_deg_s2) == ((200.0, 100.0), (1000.0, 500.0))

    def test_a_contract_keeps_measured_imperfections(self) -> None:
        """Measured ranges are read back bit for bit."""
        ranges = Imperfections(action_delay_s=(0.031, 0.037), servo_lag_s=(0.1, 0.1 + 2**-50)).to_json()
        contract = dataclasses.replace(CONTRACT, imperfections=ranges)
        assert Contract.from_json(contract.to_json()) == contract

    def test_recurrent_state_is_optional_and_checked(self) -> None:
        """Input, output and golden samples of the recurrent state must agree in size."""
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
            (dataclasses.replace(contract, next_memory=None), "differ in size"),
            (
                dataclasses.replace(contract, next_memory=dataclasses.replace(memory, name="next_memory", size=3)),
                "differ in size",
            ),
            (dataclasses.replace(contract, golden=dataclasses.replace(golden, next_memory=None)), "match its outputs"),
            (
                dataclasses.replace(contract, golden=dataclasses.replace(golden, next_memory=[[1.0]])),
                "of 'next_memory'",
            ),
        ]
        for malformed, message in wrong:
            with pytest.raises(ValueError, match=message):
                Contract.from_json(malformed.to_json())

    def test_the_hash_of_a_configuration_ignores_the_order_of_its_keys(self, tiny_run: Path) -> None:
        """It is SHA-256 of the compact JSON with sorted keys."""
        values = json.loads((tiny_run / "config.json").read_text())
        config = TrainConfig.from_json(values)
        shuffled = TrainConfig.from_json(dict(reversed(values.items())))
        assert config.sha256() == shuffled.sha256()
        assert config.sha256() != dataclasses.replace(config, seed=config.seed + 1).sha256()
        text = json.dumps({name: value for name, value in values.items() if name != "version"}, sort_keys=True)
        compact = text.replace(", ", ",").replace(": ", ":")
        assert config.sha256() == hashlib.sha256(compact.encode()).hexdigest()


class TestInvalidContent:
    """Errors name the field or value at fault."""

    @pytest.mark.parametrize("field", REQUIRED)
    def test_a_missing_field_is_named(self, field: str) -> None:
        """Each required field is checked."""
        content = json.loads(CONTRACT.to_json())
        del content[field]
        with pytest.raises(ValueError, match="schema version None" if field == "schema_version" else f"`{field}`"):
            Contract.from_json(json.dumps(content))

    @pytest.mark.parametrize("path", ["arm", "joints", "control_rate_hz", "goal_tolerance_m", "output", "golden"])
    def test_a_field_of_another_type_is_named(self, path: str) -> None:
        """The error has the JSON path of the field."""
        with pytest.raises(ValueError, match=rf"\$\.{path}"):
            Contract.from_json(changed(path, None))

    @pytest.mark.parametrize(
        "value",
        ["ruff", "", {"servo_lag": [0, 1]}, {"servo_lag_s": [1, 0]}, {"servo_lag_s": [0]}, {"payload_kg": [-1, 0]}],
    )
    def test_invalid_imperfections_are_rejected(self, value: Any) -> None:
        """Unknown presets and names, and impossible ranges."""
        with pytest.raises(ValueError, match=r"the contract is malformed: .*(imperfections|servo_lag_s|payload_kg)"):
            Contract.from_json(changed("imperfections", value))

    @pytest.mark.parametrize(
        "text", ["", "{", "null", "[]", '"text"', "1", "{}garbage", "\x00", '{"a": NaN}', "[" * 10**5]
    )
    def test_text_that_is_no_json_object_is_rejected(self, text: str) -> None:
        """Empty, truncated, nested and non-object texts."""
        with pytest.raises(ValueError, match="the contract"):
            Contract.from_json(text)

    @pytest.mark.parametrize(
        ("path", "value", "message"),
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
    def test_impossible_values_are_rejected_by_name(self, path: str, value: Any, message: str) -> None:
        """Rates, tolerances, limits and golden samples out of range or of the wrong size."""
        with pytest.raises(ValueError, match=message):
            Contract.from_json(changed(path, value))

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
    def test_numbers_that_are_not_finite_are_rejected(self, path: str, written: str) -> None:
        """In every field, however the number is written."""
        assert read_or_reject(number(path, written)) is None

    def test_a_number_too_small_for_a_float_is_zero(self) -> None:
        """A golden target of 1e-99999999999 is read as 0."""
        contract = read_or_reject(number("golden.target_deg.0.0", "1e-99999999999"))
        assert contract is not None
        assert contract.golden.target_deg[0][0] == 0.0

    @pytest.mark.parametrize(
        ("path", "value", "message"),
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
            ("inputs.1.name", "joint_angle_deg", "the same name"),
            ("output.name", "goal_m", "the same name"),
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
    def test_sizes_beyond_the_bounds_are_rejected_by_name(self, path: str, value: Any, message: str) -> None:
        """Too many joints, texts that are too long, and too many samples."""
        assert read_or_reject(changed(path, value)) is None
        with pytest.raises(ValueError, match=message):
            Contract.from_json(changed(path, value))


class TestVersions:
    """Schema versions."""

    @pytest.mark.parametrize("version", [1, 5, 0, -1, "2", None, [2], 23, 10**30])
    def test_an_unknown_version_is_an_error_with_the_remedy(self, version: Any) -> None:
        """The message lists the versions that are read and suggests a new export."""
        with pytest.raises(
            ValueError, match=r"schema version .*this program reads 2, 3 and 4: export the policy again"
        ):
            Contract.from_json(changed("schema_version", version))

    @pytest.mark.parametrize("version", [2, 3])
    def test_a_contract_of_an_older_version_is_read(self, version: int) -> None:
        """Versions 2 and 3 are accepted."""
        older = dataclasses.replace(CONTRACT, schema_version=version)
        assert Contract.from_json(changed("schema_version", version)) == older


class TestArbitraryContent:
    """Random content is read or rejected with one short line."""

    @settings(max_examples=500)
    @given(st.text() | json_values.map(json.dumps))
    def test_arbitrary_text_and_json(self, text: str) -> None:
        """Nothing but a ValueError is raised."""
        assert read_or_reject(text) is None

    def test_any_value_in_any_field(self) -> None:
        """Both outcomes occur, and what is read equals the JSON."""
        outcomes = set()

        @settings(max_examples=500)
        @given(path=st.sampled_from(PATHS), value=json_values | st.floats(-1e3, 1e3) | st.integers(-3, 3))
        def check(path: str, value: Any) -> None:
            outcomes.add(outcome(changed(path, value)))

        check()
        assert outcomes == {"read", "rejected"}

    @pytest.mark.slow
    def test_a_real_contract_with_values_replaced(self, real: str) -> None:
        """Up to three values anywhere are replaced; both outcomes occur."""
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
        assert outcomes == {"read", "rejected"}

    def test_a_real_contract_with_characters_changed(self, real: str) -> None:
        """Up to three edits of the text; both outcomes occur."""
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
        assert outcomes == {"read", "rejected"}

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
    def test_time_and_memory_are_bounded(self, text: str) -> None:
        """Hostile texts of up to 1 MiB take less than 5 s and 64 MiB."""
        tracemalloc.start()
        begin = time.process_time()
        try:
            assert read_or_reject(text) is None
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert time.process_time() - begin < 5.0  # a fraction of a second, but for a busy machine and the tracing
        assert peak < 64 * 2**20


class TestEpisodeSteps:
    """The episode length of the training."""

    def test_a_contract_without_it_is_read(self) -> None:
        """Contracts of earlier versions have none."""
        content = json.loads(dataclasses.replace(CONTRACT, episode_steps=190).to_json())
        assert Contract.from_json(json.dumps(content)).episode_steps == 190
        del content["episode_steps"]
        assert Contract.from_json(json.dumps(content)).episode_steps is None

    @pytest.mark.parametrize("steps", [0, -1, 10_001, 1.5, "50", 10**30])
    def test_impossible_lengths_are_rejected(self, steps: Any) -> None:
        """The message names the field."""
        with pytest.raises(ValueError, match="episode_steps"):
            Contract.from_json(changed("episode_steps", steps))
