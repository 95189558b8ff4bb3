"""Instructions on the bus, from the vendor's SDK or as bytes."""

import dynamixel_sdk
import pytest
from emulated import Clock, ask, replies, sdk, write
from hypothesis import given, settings
from hypothesis import strategies as st

from arm_control.drivers.emulator.emulator import Emulator
from arm_control.drivers.emulator.protocol import (
    BROADCAST_ID,
    MAX_LENGTH,
    Instruction,
    make_packet,
)


class TestInstructions:
    """Each instruction of the protocol, and its errors."""

    def test_the_sdk_finds_and_reads_the_servos(self, servos: Emulator, patient: None) -> None:
        """Ping, broadcast ping and reads return the factory's values."""
        with servos, sdk(servos.path) as (port, packets):
            assert packets.ping(port, 3) == (1060, 0, 0)
            found, result = packets.broadcastPing(port)
            assert (found, result) == ({1: [1060, 45], 2: [1060, 45], 3: [1060, 45]}, 0)
            assert packets.read4ByteTxRx(port, 2, 132) == (2000, 0, 0)
            assert packets.read2ByteTxRx(port, 2, 144) == (120, 0, 0)
            assert packets.read1ByteTxRx(port, 2, 146) == (30, 0, 0)

    def test_the_sdk_reads_and_writes_three_servos_at_once(self, servos: Emulator, clock: Clock, patient: None) -> None:
        """Sync write moves the servos, and sync read returns their positions."""
        with servos, sdk(servos.path) as (port, packets):
            goals, state = (
                dynamixel_sdk.GroupSyncWrite(port, packets, 116, 4),
                dynamixel_sdk.GroupSyncRead(port, packets, 126, 21),
            )
            for id in (1, 2, 3):
                assert packets.write1ByteTxRx(port, id, 64, 1) == (0, 0)
                goals.addParam(id, list((1500 + 100 * id).to_bytes(4, "little")))
                state.addParam(id)
            assert goals.txPacket() == 0
            assert state.txRxPacket() == 0  # so the goals have arrived
            clock.advance(3.0)
            assert state.txRxPacket() == 0
            assert all(state.isAvailable(id, 126, 21) for id in (1, 2, 3))
            assert [state.getData(id, 132, 4) for id in (1, 2, 3)] == [1600, 1700, 1800]
        assert list(servos.history) == [(50.0, id, 1500 + 100 * id) for id in (1, 2, 3)]
        assert servos.positions() == {1: 1600, 2: 1700, 3: 1800}

    def test_the_sdk_reads_and_writes_in_bulk(self, servos: Emulator, patient: None) -> None:
        """Bulk write and bulk read of different registers."""
        with servos, sdk(servos.path) as (port, packets):
            writes, reads = dynamixel_sdk.GroupBulkWrite(port, packets), dynamixel_sdk.GroupBulkRead(port, packets)
            writes.addParam(1, 65, 1, [1])
            writes.addParam(2, 112, 4, [50, 0, 0, 0])
            assert writes.txPacket() == 0
            reads.addParam(1, 65, 1)
            reads.addParam(2, 112, 4)
            assert reads.txRxPacket() == 0
            assert (reads.getData(1, 65, 1), reads.getData(2, 112, 4)) == (1, 50)

    def test_errors_have_the_e_manuals_numbers(self, servos: Emulator, clock: Clock) -> None:
        """One instruction for each error number."""
        assert write(servos, 1, "torque_enable", 1) == 0
        assert write(servos, 1, "goal_position", 3000) == 0
        clock.advance(0.2)
        assert ask(servos, 1, Instruction.CLEAR, 0x01, 0x44, 0x58, 0x4C, 0x22) == [(1, 1, b"")]  # while it moves
        assert ask(servos, 1, 0x77) == [(1, 2, b"")]
        assert ask(servos, 1, Instruction.ACTION) == [(1, 2, b"")]  # with nothing to do
        assert write(servos, 1, "torque_enable", 2) == 4
        assert write(servos, 1, "status_return_level", 3) == 4
        assert ask(servos, 1, Instruction.WRITE, 116, 0, 0, 8) == [(1, 5, b"")]  # half a goal
        assert write(servos, 1, "goal_position", 4096) == 6
        assert write(servos, 1, "goal_velocity", -266) == 6
        assert write(servos, 1, "present_position", 0) == 7
        assert write(servos, 1, "return_delay", 0) == 7  # EEPROM, while the torque is on
        assert ask(servos, 1, Instruction.WRITE, 99, 0, 1) == [(1, 7, b"")]
        assert ask(servos, 1, Instruction.READ, 0xFF, 0x0F, 4, 0) == [(1, 7, b"")]
        assert [goal for _, _, goal in servos.history] == [3000]
        assert write(servos, 1, "torque_enable", 0) == 0
        assert write(servos, 1, "return_delay", 0) == 0
        assert [delay for delay, _ in servos.reply(make_packet(1, Instruction.PING))] == [0.0]

    def test_a_write_to_several_registers_is_atomic(self, servos: Emulator) -> None:
        """All registers are written, or none."""
        both = [*(30).to_bytes(4, "little"), *(40).to_bytes(4, "little")]
        assert ask(servos, 1, Instruction.WRITE, 108, 0, *both) == [(1, 0, b"")]
        assert (servos.register("profile_acceleration", 1), servos.register("profile_velocity", 1)) == (30, 40)
        wrong = [*(31).to_bytes(4, "little"), *(99_999).to_bytes(4, "little")]
        assert ask(servos, 1, Instruction.WRITE, 108, 0, *wrong) == [(1, 4, b"")]
        assert servos.register("profile_acceleration", 1) == 30

    def test_registered_writes_wait_for_the_action(self, servos: Emulator) -> None:
        """Reg write takes effect with the action instruction."""
        for id in (1, 2):
            assert ask(servos, id, Instruction.REG_WRITE, 65, 0, 1) == [(id, 0, b"")]
            assert (servos.register("led", id), servos.register("registered_instruction", id)) == (0, 1)
        assert ask(servos, BROADCAST_ID, Instruction.ACTION) == []
        assert [servos.register("led", id) for id in (1, 2, 3)] == [1, 1, 0]

    @pytest.mark.parametrize(("level", "ping", "read", "written"), [(0, 1, 0, 0), (1, 1, 1, 0), (2, 1, 1, 1)])
    def test_status_return_level(self, servos: Emulator, level: int, ping: int, read: int, written: int) -> None:
        """Levels 0, 1 and 2 reply to pings, to reads, and to everything."""
        ask(servos, 1, Instruction.WRITE, 68, 0, level)
        assert len(ask(servos, 1, Instruction.PING)) == ping
        assert len(ask(servos, 1, Instruction.READ, 132, 0, 4, 0)) == read
        assert len(ask(servos, 1, Instruction.WRITE, 65, 0, 1)) == written
        assert servos.register("led", 1) == 1

    def test_broadcasts_have_no_reply(self, servos: Emulator) -> None:
        """They are executed; only a broadcast ping has replies."""
        assert ask(servos, BROADCAST_ID, Instruction.WRITE, 65, 0, 1) == []
        assert [servos.register("led", id) for id in (1, 2, 3)] == [1, 1, 1]
        assert ask(servos, BROADCAST_ID, Instruction.READ, 65, 0, 1, 0) == []
        assert [id for id, _, _ in ask(servos, BROADCAST_ID, Instruction.PING)] == [1, 2, 3]

    def test_a_new_id_takes_effect_immediately(self, servos: Emulator) -> None:
        """A servo replies to its new id only."""
        assert write(servos, 3, "id", 33) == 0
        assert ask(servos, 3, Instruction.PING) == []
        assert len(ask(servos, 33, Instruction.PING)) == 1
        assert set(servos.positions()) == {1, 2, 33}


BYTES = st.one_of(
    st.binary(max_size=60),
    st.builds(
        make_packet,
        st.sampled_from([1, 2, 3, 77, BROADCAST_ID]),
        st.sampled_from([*Instruction, 0, 0x77, 0xFF]),
        st.one_of(
            st.binary(max_size=40),
            st.builds(lambda address, data: bytes([address, 0]) + data, st.integers(0, 150), st.binary(max_size=12)),
            st.sampled_from([bytes([64, 0, 1]), bytes([116, 0, 0, 8, 0, 0]), b"\x01\x44\x58\x4c\x22"]),
        ),
    ),
    st.just(b"\xff\xff\xfd"),
    st.just(b"\xff\xff\xfd\x00\x01\xff\x03"),
)


class TestAnyBytes:
    """Robustness against any bytes."""

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(BYTES, st.floats(0.0, 0.3)), max_size=12), st.integers(1, 70))
    def test_bytes_in_pieces(self, pieces: list[tuple[bytes, float]], split: int) -> None:
        """After packets and noise in pieces, all servos reply again."""
        clock = Clock()
        servos = Emulator(clock=clock)
        for data, seconds in pieces:
            for start in range(0, len(data), split):
                servos.reply(data[start : start + split])
            clock.advance(seconds)
        servos.reply(bytes(MAX_LENGTH + 7))  # whatever packet was begun
        clock.advance(1.0)  # after a reboot
        assert len(replies(servos, make_packet(BROADCAST_ID, Instruction.PING))) == 3
        assert len(servos.positions()) >= 1
