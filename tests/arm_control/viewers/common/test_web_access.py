"""Security of the web viewer: pages of other sites, arbitrary messages, and hostile texts."""

import contextlib
import dataclasses
import html
import os
import random
import socket
import struct
import threading
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest
import viser
import zstandard
from browser import browsing, chromium
from helpers import Size, wait_until
from hypothesis import given
from hypothesis import strategies as st
from served import Served
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect

from arm_control.evaluation.opening import open_controller
from arm_control.process.printing import printable
from arm_control.recording.schema import Event
from arm_control.viewers.common import web_access as guard
from arm_control.viewers.common.live import LiveArm, roll_out
from arm_control.viewers.common.stage import BLUE, serving
from arm_control.viewers.common.trajectory import Episode, TicksInMemory, Trajectory
from arm_control.viewers.common.web_access import Access, accepted, start_guarded
from arm_control.viewers.page.html import save_page
from arm_control.viewers.web.live_page import LivePage
from arm_control.viewers.web.pages import serve
from arm_control.viewers.web.panel import as_html, numbers
from arm_control.viewers.web.played_page import PlayedPage
from envs.arm import Arm

PORT = 8080
PROTOCOL = f"viser-v{viser.__version__}"
CAMERA = {
    "type": "ViewerCameraMessage",
    "wxyz": [1.0, 0.0, 0.0, 0.0],
    "position": [1.0, -1.0, 1.0],
    "fov": 0.8,
    "near": 0.01,
    "far": 1000,
    "image_height": 800,
    "image_width": 1280,
    "look_at": [0.0, 0.0, 0.0],
    "up_direction": [0, 0, 1],
}


class TestAccess:
    """Accepted addresses (Host) and pages (Origin)."""

    @pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "LocalHost:8080"])
    def test_loopback_names_are_served(self, host: str) -> None:
        """A page of the viewer sends its own address as its origin, programs send none."""
        access = Access("127.0.0.1")
        assert access.allows([host], [], PORT)
        assert access.allows([host], [f"http://{host}"], PORT)
        assert access.allows([host], ["http://127.0.0.1:8080"], PORT)

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example:8080",
            "evil.example",
            "127.0.0.1",
            "127.0.0.1:8081",
            "127.0.0.1:",
            "127.0.0.1:8080:8080",
            "127.0.0.1.evil.example:8080",
            "localhost.:8080",
            "localhost.evil.example:8080",
            "127.0.0.1:8080@evil.example",
            "evil.example@127.0.0.1:8080",
            "127.0.0.1%3a8080",
            "127.0.0.2:8080",
            "10.0.0.1:8080",
            "::1:8080",
            "[::1]8080",
            "[::2]:8080",
            "[127.0.0.1]:8080",
            " 127.0.0.1:8080",
            "127.0.0.1:8080/",
            "",
        ],
    )
    def test_other_hosts_are_rejected(self, host: str) -> None:
        """Including names that were made to point here (DNS rebinding)."""
        assert not Access("127.0.0.1").allows([host], [], PORT)
        assert not Access("127.0.0.1").allows([host], [f"http://{host}"], PORT)

    @pytest.mark.parametrize(
        "origin",
        [
            "null",
            "",
            "http://evil.example",
            "http://evil.example:8080",
            "http://127.0.0.1",
            "http://127.0.0.1:8081",
            "https://127.0.0.1:8080",
            "file://",
            "http://127.0.0.1:8080/",
            "http://127.0.0.1:8080.evil.example",
            "http://127.0.0.1:8080@evil.example",
            "http://evil.example@127.0.0.1:8080",
            "http://evil.example#127.0.0.1:8080",
            "http://127.0.0.1%3a8080",
            "http://localhost.:8080",
            "127.0.0.1:8080",
            "http://127.0.0.1:8080 http://evil.example",
        ],
    )
    def test_other_origins_are_rejected(self, origin: str) -> None:
        """Whatever they look like."""
        assert not Access("127.0.0.1").allows(["127.0.0.1:8080"], [origin], PORT)

    def test_missing_and_repeated_headers_are_rejected(self) -> None:
        """One Host, and at most one Origin."""
        own, page = "127.0.0.1:8080", "http://127.0.0.1:8080"
        access = Access("127.0.0.1")
        assert not access.allows([], [], PORT)
        assert not access.allows([own, own], [], PORT)
        assert not access.allows([own], [page, page], PORT)
        assert not access.allows([own], [page, "http://evil.example"], PORT)

    def test_port_80_may_be_omitted(self) -> None:
        """Browsers omit that port."""
        assert Access("127.0.0.1").allows(["localhost"], ["http://localhost"], 80)

    def test_all_addresses_of_the_machine_are_served_with_a_wildcard_host(self) -> None:
        """By IP address, which cannot be rebound as a name can; the origin must be equal."""
        for everywhere in ("0.0.0.0", "::", "0"):
            access = Access(everywhere)
            for host in ("192.168.1.5:8080", "[fe80::1]:8080", "localhost:8080", f"{socket.gethostname()}:8080"):
                assert access.allows([host], [f"http://{host}"], PORT), (everywhere, host)
                assert not access.allows([host], ["http://10.6.6.6:8080"], PORT)
                assert not access.allows([host], ["http://evil.example:8080"], PORT)
            assert not access.allows(["evil.example:8080"], [], PORT)
            assert not access.allows(["[192.168.1.5]:8080"], [], PORT)
            assert not access.allows(["192.168.1.5:8081"], [], PORT)

    def test_the_given_host_is_served(self) -> None:
        """IPv4 and IPv6, and no other address."""
        assert Access("127.0.0.9").allows(["127.0.0.9:8080"], ["http://127.0.0.9:8080"], PORT)
        assert Access("::1").allows(["[::1]:8080"], ["http://[::1]:8080"], PORT)
        assert not Access("127.0.0.9").allows(["127.0.0.8:8080"], [], PORT)
        assert not Access("127.0.0.9").allows(["127.0.0.9:8080"], ["http://localhost:8080"], PORT)

    @given(
        st.lists(
            st.sampled_from(
                [
                    "http://",
                    "https://",
                    "127.0.0.1",
                    "localhost",
                    "[::1]",
                    ":8080",
                    ":",
                    "@",
                    ".",
                    "evil.example",
                    "%00",
                    "%3a",
                    "/",
                    "\\",
                    "#",
                    "?",
                    "\t",
                    "null",
                    "\u212a",
                    "\uff0e",
                ]
            ),
            max_size=6,
        ).map("".join),
        st.sampled_from(["Host", "Origin"]),
    )
    def test_nothing_but_the_served_addresses_is_allowed(self, text: str, header: str) -> None:
        """Random headers against the list of all served addresses."""
        served = {f"{name}:8080" for name in ("127.0.0.1", "localhost", "[::1]")}
        access = Access("127.0.0.1")
        if header == "Host":
            assert access.allows([text], [], PORT) == (text in served)
        else:
            assert access.allows(["localhost:8080"], [text], PORT) == (
                text.removeprefix("http://") in served and "//" in text
            )


@pytest.fixture(scope="module")
def live() -> Iterator[Served]:
    """A live arm that is served."""
    arm = LiveArm(open_controller("ik", 0), 0)
    served = Served(lambda server: LivePage(server, arm))
    yield served
    served.close()
    arm.close()


def port_of(served: Served) -> int:
    port = urlsplit(served.url).port
    assert port is not None
    return port


def status(served: Served, *headers: str) -> tuple[int, str]:
    """The status with which a request of just these headers is answered, 0 for none, and all that is sent."""
    request = "\r\n".join(["GET / HTTP/1.1", *headers, "", ""])
    with socket.create_connection(("127.0.0.1", port_of(served)), 30) as client:
        client.settimeout(30)
        client.sendall(request.encode("latin-1"))
        sent = b""
        with contextlib.suppress(ConnectionResetError):
            while b"\r\n\r\n" not in sent and (more := client.recv(65536)):
                sent += more
    return int(sent.split()[1]) if sent else 0, sent.decode("latin-1")


class TestRequests:
    """The same rules for requests to the viewer."""

    UPGRADE = (
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"Sec-WebSocket-Protocol: {PROTOCOL}",
    )

    @pytest.mark.parametrize("upgrade", [(), UPGRADE], ids=["page", "websocket"])
    def test_pages_and_websockets_are_served_to_the_viewers_own_page_only(
        self, live: Served, upgrade: tuple[str, ...]
    ) -> None:
        """All others get status 403 without a page."""
        own = f"127.0.0.1:{port_of(live)}"
        answered = 101 if upgrade else 200
        assert status(live, f"Host: {own}", *upgrade)[0] == answered
        assert status(live, f"Host: {own}", f"Origin: http://{own}", *upgrade)[0] == answered
        for headers in (
            ["Host: evil.example"],
            [f"Host: evil.example:{port_of(live)}", f"Origin: http://evil.example:{port_of(live)}"],
            [f"Host: {own}", "Origin: http://evil.example"],
            [f"Host: {own}", "Origin: null"],
            [f"Host: {own}", f"Origin: http://{own}", "Origin: http://evil.example"],
            [f"Host: {own}", "Host: evil.example"],
            ["X-Forwarded-Host: localhost"],
        ):
            code, sent = status(live, *headers, *upgrade)
            assert code == 403, headers
            assert "<html" not in sent

    def test_the_content_security_policy(self, live: Served) -> None:
        """No frames, and no connection to other servers."""
        _, sent = status(live, f"Host: localhost:{port_of(live)}")
        [policy] = [line for line in sent.split("\r\n") if line.startswith("Content-Security-Policy: ")]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert f"connect-src data: blob: 'self' ws://localhost:{port_of(live)};" in policy

    def test_an_unsupported_viser_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rather than an unguarded server, which is stopped."""
        stopped = []

        class Other:
            def __init__(self, **options: Any) -> None: ...

            def stop(self) -> None:
                stopped.append(self)

        monkeypatch.setattr(viser, "ViserServer", Other)
        with pytest.raises(RuntimeError, match="does not support viser"):
            start_guarded("127.0.0.1", 8300)
        assert len(stopped) == 1

    def test_ipv6_addresses_are_printed_in_brackets(self, usual: Trajectory, monkeypatch: pytest.MonkeyPatch) -> None:
        """As browsers expect them."""
        try:
            with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
                port = free.getsockname()[1]
        except OSError:
            pytest.skip("this machine has no IPv6")
        message: list[str] = []
        pages: list[bytes] = []
        monkeypatch.setattr(
            "arm_control.viewers.web.pages.paced",
            lambda update: pages.append(urllib.request.urlopen(message[0].split()[0], timeout=60).read()),
        )
        serve([usual], host="::1", port=port, say=message.append)
        assert message[0].startswith(f"http://[::1]:{port} ")
        assert b"<html" in pages[0]


def decode(raw: bytes) -> list[dict[str, Any]]:
    """The messages that the viewer sends at once."""
    length, packed = struct.unpack("<QQ", raw[:16])
    plain = zstandard.ZstdDecompressor().decompress(raw[16 : 16 + packed], max_output_size=length)
    messages: list[dict[str, Any]] = msgspec.msgpack.decode(plain)["messages"]
    return messages


@contextlib.contextmanager
def connected(served: Served) -> Iterator[ClientConnection]:
    """A client that connects as a browser does."""
    with connect(
        f"ws://127.0.0.1:{port_of(served)}", subprotocols=[PROTOCOL], compression=None, max_size=None
    ) as client:  # type: ignore[list-item]
        send(client, CAMERA)
        yield client


def send(client: ClientConnection, message: Any) -> None:
    client.send(msgspec.msgpack.encode(message))


def controls(client: ClientConnection) -> dict[str, str]:
    """The ids of controls by their labels."""
    found = {}
    while "Speed" not in found or "reward" not in found:
        for message in decode(client.recv(timeout=60)):  # type: ignore[arg-type]
            properties = message.get("props", {})
            if message["type"].startswith("Gui") and "uuid" in message:
                found[properties.get("label") or properties.get("title") or message["type"]] = message["uuid"]
    return found


def read_all(client: ClientConnection) -> None:
    """Read what the viewer sends until the connection ends, as replies follow all earlier messages."""
    with contextlib.suppress(ConnectionClosed):
        for _ in client:
            pass


def drag(client: ClientConnection, position: Any) -> None:
    send(client, {"type": "TransformControlsDragStartMessage", "name": "/handle"})
    send(
        client,
        {"type": "TransformControlsUpdateMessage", "name": "/handle", "wxyz": [1, 0, 0, 0], "position": position},
    )
    send(client, {"type": "TransformControlsDragEndMessage", "name": "/handle"})


def assert_alive(served: Served, x: float) -> None:
    """Another client reads the scene and moves the goal, which ends as near as the arm can reach."""
    with connected(served) as client:
        assert "Speed" in controls(client)
        expected = served.page.live.arm.nearest_reachable((x, 0.2, 0.25))

        def moves() -> bool:
            drag(client, [x, 0.2, 0.25])  # again, since drags of other clients may still be waiting to be read
            return served.ask(lambda page: page.live.now().goal_m) == pytest.approx(expected, abs=1e-9)

        wait_until(moves, poll_s=0.1)


MESSAGES = {
    message.__name__: message
    for message in viser.infra.Message.get_subclasses()
    if dataclasses.is_dataclass(message)  # and no base of others
}
KNOWN = sorted(name for name in MESSAGES if hasattr(guard, name))
NUMBERS = [0, -1, 2**63, -(2**63), 1e308, float("nan"), float("inf"), -float("inf")]
WORDS = ["", "nan", "1e999", "\x1b[2J", "/handle", "x" * 5000, b"", b"\xff" * 40]
LISTS: list[Any] = [[], [1, 2], [float("nan")] * 3, [1e308] * 3, [[]] * 3]
UPDATES = [{"value": 1e5}, {"value": "nan"}, {"value": float("nan")}, {"removed": True}, {"update_cb": 5, "value": 1}]
SCALARS = [None, True, False, *NUMBERS, *WORDS]
ODD = [*SCALARS, *LISTS, {}, {"value": [1]}, {"_impl": None}, *UPDATES]


def any_message(draw: random.Random, uuids: list[str]) -> bytes | str:
    """A message of any kind: noise, text, a message of viser's with odd values, or one that is almost right."""
    kind = draw.randrange(6)
    if kind == 0:
        return draw.randbytes(draw.randrange(60))
    if kind == 1:
        return draw.choice(["", "hello", "\x00", "{}"])
    if kind == 2:
        return msgspec.msgpack.encode(draw.choice([*ODD, {"type": draw.choice(SCALARS)}]))
    name = draw.choice(KNOWN) if kind > 3 else draw.choice(sorted(MESSAGES))
    fields: dict[Any, Any] = {field: draw.choice(ODD) for field in MESSAGES[name].__dataclass_fields__}
    if name in KNOWN:
        usual = CAMERA | {"name": "/handle", "owner": "", "uuid": draw.choice(uuids)}
        usual["updates"] = {"value": draw.choice([*SCALARS, 1.5, 30.0, "forward", "back", "zzz"])}
        usual["position"] = [draw.uniform(-1, 1) for _ in range(3)]
        fields = {field: usual[field] for field in fields if field in usual}
        if kind == 5 and fields:
            fields[draw.choice(sorted(fields))] = draw.choice(ODD)
        if draw.random() < 0.1:
            fields[draw.choice(["junk", "excluded_self_client", "entity_type"])] = draw.choice(ODD)
    encoded = msgspec.msgpack.encode({"type": name} | fields)
    return encoded[: draw.randrange(len(encoded))] if draw.random() < 0.1 else encoded


class Tunnel:
    """A replacement of viser's public tunnel that counts how often it is opened."""

    opened = 0

    def __init__(self, *arguments: object) -> None:
        Tunnel.opened += 1
        raise OSError("no network")


class TestMessages:
    """The viewer accepts what it needs and survives everything else."""

    def test_the_viewer_survives_any_message(
        self, live: Served, size: Size, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Nothing is printed, no tunnel is opened, and the connection stays open."""
        monkeypatch.setattr("viser._viser.ViserTunnel", Tunnel)
        Tunnel.opened = 0
        draw = random.Random(1)
        with connected(live) as client:
            uuids = list(controls(client).values())
            reader = threading.Thread(target=read_all, args=(client,))
            reader.start()
            for _ in range(size(300, full=10_000, of="messages")):
                client.send(any_message(draw, uuids))
            assert client.ping().wait(120)
            assert_alive(live, 0.1)
        reader.join(60)
        assert_alive(live, 0.2)
        assert live.ask(lambda page: np.isfinite(page.live.recent(1.0).target_deg[-1]).all())
        assert Tunnel.opened == 0
        assert capfd.readouterr() == ("", "")

    @pytest.mark.slow
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e7, "abc", "nan", None, [1], {"a": 1}, b"1"])
    def test_controls_ignore_invalid_values(self, live: Served, value: Any) -> None:
        """Sliders and a choice, with wrong types and non-finite numbers."""
        with connected(live) as client:
            known = controls(client)
            wait_until(lambda: live.ask(lambda page: page.server.get_clients()))
            send(client, {"type": "GuiUpdateMessage", "uuid": known["Move the joints"], "updates": {"value": True}})
            wait_until(lambda: live.ask(lambda page: page.live.manual_deg is not None))
            before = live.ask(lambda page: (page.playback.speed, list(page.live.manual_deg), page.playback.playing))
            for label in ("Speed", "shoulder", "Step"):
                send(client, {"type": "GuiUpdateMessage", "uuid": known[label], "updates": {"value": value}})
            send(client, {"type": "GuiUpdateMessage", "uuid": known["elbow"], "updates": {"value": 30.0}})
            wait_until(lambda: live.ask(lambda page: page.live.manual_deg[2] == 30.0))
            after = live.ask(lambda page: (page.playback.speed, list(page.live.manual_deg), page.playback.playing))
            assert after[0] == before[0]
            assert after[1][:2] == before[1][:2]
            assert after[2] == before[2]
            send(client, {"type": "GuiUpdateMessage", "uuid": known["Move the joints"], "updates": {"value": False}})
            wait_until(lambda: live.ask(lambda page: page.live.manual_deg is None))

    def test_values_beyond_a_slider_are_clipped(self, live: Served) -> None:
        """The slider shows the end."""
        with connected(live) as client:
            known = controls(client)
            wait_until(lambda: live.ask(lambda page: page.server.get_clients()))
            send(client, {"type": "GuiUpdateMessage", "uuid": known["Speed"], "updates": {"value": 500.0}})
            wait_until(lambda: live.ask(lambda page: page.playback.speed == 10.0))
            send(client, {"type": "GuiUpdateMessage", "uuid": known["Speed"], "updates": {"value": 1.0}})
            wait_until(lambda: live.ask(lambda page: page.playback.speed == 1.0))

    def test_a_request_for_a_public_tunnel_does_nothing(self, live: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither opening nor closing one."""
        calls: list[str] = []
        monkeypatch.setattr(live.page.server, "request_share_url", lambda: calls.append("open"), raising=False)
        monkeypatch.setattr(live.page.server, "disconnect_share_url", lambda: calls.append("close"), raising=False)
        with connected(live) as client:
            send(client, {"type": "ShareUrlRequest"})
            send(client, {"type": "ShareUrlDisconnect"})
            assert client.ping().wait(60)
        assert_alive(live, 0.15)  # later on the same event loop
        assert calls == []

    def test_a_huge_message_ends_its_own_connection_only(self, live: Served) -> None:
        """It is rejected before it is read into memory."""
        with connected(live) as other, connected(live) as client:
            with contextlib.suppress(ConnectionClosed):
                client.send(b"x" * 5_000_000)
            wait_until(lambda: client.state is State.CLOSED)
            assert client.close_code in (1006, 1009)
            assert "Speed" in controls(other)

    def test_the_number_of_connections_is_limited(self, live: Served) -> None:
        """Later ones are served once the others are closed."""
        held = [socket.create_connection(("127.0.0.1", port_of(live)), 30) for _ in range(3 * guard.MAX_CONNECTIONS)]
        try:
            for client in held[-10:]:
                client.settimeout(60)
                with contextlib.suppress(ConnectionResetError):
                    assert client.recv(1) == b""
        finally:
            for client in held:
                client.close()
        wait_until(lambda: status(live, f"Host: 127.0.0.1:{port_of(live)}")[0] == 200)
        assert_alive(live, 0.12)

    def test_the_number_of_queued_requests_is_limited(self, live: Served) -> None:
        """100 of 1,000 are executed."""
        done: list[int] = []
        live.ask(lambda page: [page.request(lambda: done.append(1)) for _ in range(1000)])
        live.ask(lambda page: None)
        wait_until(lambda: len(done) == 100)

    @pytest.mark.parametrize("name", KNOWN)
    def test_messages_have_the_fields_of_viser(self, name: str) -> None:
        """A new version of viser with other fields is noticed."""
        expected = {field.name for field in msgspec.structs.fields(getattr(guard, name))}
        assert expected == set(MESSAGES[name].__dataclass_fields__)

    def test_a_valid_message_is_accepted_unchanged(self) -> None:
        """Unknown fields are removed."""
        message = accepted(msgspec.msgpack.encode(CAMERA | {"junk": 1}))
        assert message is not None
        assert msgspec.msgpack.decode(message) == CAMERA

    @given(st.binary(max_size=80) | st.text())
    def test_arbitrary_bytes_are_ignored(self, message: bytes | str) -> None:
        """Nothing is raised."""
        assert accepted(message) is None

    def test_malformed_messages_are_ignored(self) -> None:
        """Deep nesting, false lengths and invalid UTF-8."""
        deep = b"\x82\xa4type\xb3ViewerCameraMessage\xa4junk" + b"\x91" * 60_000 + b"\x01"
        for message in (deep, b"\xdd\xff\xff\xff\xff", b"\x81\xa4type\xa2\xff\xff"):
            assert accepted(message) is None


def payload(name: str) -> str:
    """A text that runs as a script, or fetches something, wherever it gets into a page as it is."""
    script = f"window.pwned=(window.pwned||[]).concat('{name}')"
    return f'<img src=http://evil.example/{name} onerror="{script}"></script><script>{script}</script>\'"--> {name}'


@pytest.fixture(scope="module")
def usual() -> Trajectory:
    """A trajectory through two goals."""
    return roll_out(open_controller("ik", 0), 2, 0)


def hostile(usual: Trajectory, folder: Path) -> Trajectory:
    """The same trajectory, each text a payload: names of file, arm, joints and goals, phases, bands and events."""
    text = Arm().urdf_text
    for number, name in enumerate(Arm().joint_names):
        text = text.replace(f'joint name="{name}"', f'joint name="{html.escape(payload(f"joint{number}"))}"')
    file = folder / "arm.urdf"
    file.write_text(text.replace('robot name="arm3"', f'robot name="{html.escape(payload("robot"))}"'))
    arm = Arm(file)
    ticks = [
        msgspec.structs.replace(tick, phase=payload("phase"), band=payload("band"))
        for tick in usual._ticks.ticks(0.0, 1.0)
    ]
    events = [Event(0.0, payload("kind"), payload("text")), Event(0.0, "refusal", payload("refusal"))]
    episodes = [Episode(payload("goal"), 0.0, 0.5), Episode(payload("other goal"), 0.5, 1.0)]
    return Trajectory(
        payload("file"), arm, 1 / 30, TicksInMemory(ticks), episodes=episodes, events=events, opens_at_s=0.2
    )


class Elements(HTMLParser):
    """The elements of a page, the attributes that load or run something, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.active: set[tuple[str, str]] = set()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            if name.startswith("on") or (name in ("src", "href", "xlink:href") and not (value or "").startswith("#")):
                self.active.add((tag, name))

    def handle_data(self, data: str) -> None:
        self.text += data


class TestTexts:
    """Texts of files are shown as text."""

    TEXTS = st.text(st.sampled_from("<>&\"'/=;-! imgscriptonerror$_{}%\\\n\x00\x1b\u202e"), max_size=40)

    @given(TEXTS, TEXTS, TEXTS)
    def test_the_panel_shows_any_text_unchanged(self, usual: Trajectory, name: str, phase: str, band: str) -> None:
        """Read back with an HTML parser."""
        now = usual.sample(0.0)
        now.phase[:], now.band[:] = [phase], [band]
        shown = Elements(as_html([numbers(now, name, BLUE)]))
        assert shown.tags == {"div", "span", "b"}
        assert not shown.active
        message = f"\u25a0 {name}: error {now.error_mm[0]:.1f} mm, reward {now.reward[0]:.3f}, {phase}"
        message += "" if band == "pass" else f", {band}"
        assert plain(shown.text) == plain(message)

    def test_the_panel_of_a_hostile_recording_has_no_further_elements(self, usual: Trajectory, tmp_path: Path) -> None:
        """With all texts that it shows."""
        trajectory = hostile(usual, tmp_path)
        with serving("127.0.0.1", 8300) as server:
            page = PlayedPage(server, [trajectory])
            page.write(0.2)
            shown = Elements(page.numbers.content)
        assert shown.tags == {"div", "span", "b", "br"}
        assert not shown.active
        for name in ("goal", "file", "phase", "band", "kind", "text", "refusal"):
            assert f"<img src=http://evil.example/{name}" in shown.text, name  # long ones are cut in their middle

    @pytest.mark.filterwarnings("error")  # of matplotlib's, that a text does not fit or has no glyph
    def test_a_saved_page_of_a_hostile_recording_has_no_further_elements(
        self, usual: Trajectory, tmp_path: Path
    ) -> None:
        """Compared with the page of the same trajectory with ordinary names."""
        found = []
        for trajectory in (usual, hostile(usual, tmp_path)):
            save_page([trajectory], tmp_path / "page.html")
            found.append(Elements((tmp_path / "page.html").read_text()))
        assert found[1].tags - {"pattern"} == found[0].tags - {"pattern"}  # with which plots hatch what stands still
        assert found[1].active == found[0].active == set()
        assert payload("file") in found[1].text
        assert "<img src=http://evil.example/goal" in found[1].text  # cut in its middle

    def test_file_names_that_are_not_utf_8_are_shown_with_escapes(self, usual: Trajectory, tmp_path: Path) -> None:
        """They would otherwise end every connection."""
        file = tmp_path / os.fsdecode(b"\xffname.mcap")
        try:
            file.touch()
        except OSError:
            pytest.skip("this file system has no such names")
        shown = as_html([numbers(usual.sample(0.0), printable(file.name), BLUE)])
        assert r"\udcffname.mcap" in msgspec.msgpack.decode(msgspec.msgpack.encode(shown))


def plain(text: str) -> str:
    """A text without what parsers of HTML make equal: NUL and line ends."""
    return text.replace("\x00", "").replace("\r", "")


class Site:
    """A site that a user visits while the viewer runs, and the requests that it receives."""

    def __init__(self, page: str) -> None:
        requests = self.requests = list[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(f"http://{self.headers['Host']}{self.path}")
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page.encode())

            def log_message(self, *arguments: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)


# An attack by a page of another site: read and drag over a websocket, at the address of this machine and at its own
# name (DNS rebinding); read the page; show it in a frame.
ATTACK = """<!doctype html><body><script>
window.done = [];
window.received = 0;
const text = s => [0xd9, s.length, ...new TextEncoder().encode(s)];
const number = value => {
  const bytes = new DataView(new ArrayBuffer(8));
  bytes.setFloat64(0, value);
  return [0xcb, ...new Uint8Array(bytes.buffer)];
};
const named = type => [...text("type"), ...text(type), ...text("name"), ...text("/handle")];
const start = [0x82, ...named("TransformControlsDragStartMessage")];
const end = [0x82, ...named("TransformControlsDragEndMessage")];
const move = [0x84, ...named("TransformControlsUpdateMessage"), ...text("wxyz"), 0x94, ...[1, 0, 0, 0].flatMap(number),
  ...text("position"), 0x93, ...[0.05, 0.3, 0.4].flatMap(number)];
for (const name of ["127.0.0.1", "localhost", "evil.example"]) {
  const socket = new WebSocket(`ws://${name}:VIEWER`, ["PROTOCOL"]);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { for (const message of [start, move, end]) socket.send(new Uint8Array(message)); };
  socket.onmessage = event => { window.received += event.data.byteLength; };
  socket.onclose = () => window.done.push("websocket");
  fetch(`http://${name}:VIEWER/`).then(answer => answer.text()).then(read => { window.received += read.length; })
    .catch(() => {}).finally(() => window.done.push("fetch"));
  const frame = document.createElement("iframe");
  frame.onload = () => window.done.push("frame");
  frame.src = `http://${name}:VIEWER/`;
  document.body.append(frame);
}
</script></body>"""


@pytest.mark.slow
class TestBrowser:
    """A browser that visits a hostile site, or opens a hostile recording."""

    def test_a_page_of_another_site_reads_and_moves_nothing(self, live: Served) -> None:
        """And the viewer's own page connects to no other server."""
        attack = ATTACK.replace("VIEWER", str(port_of(live))).replace("PROTOCOL", PROTOCOL)
        site = Site(attack)
        elsewhere = f"MAP evil.example:{port_of(live)} 127.0.0.1:{port_of(live)}, MAP * 127.0.0.1:{site.port}"
        wait_until(lambda: not live.ask(lambda page: page.server.get_clients()))
        goal_m = live.ask(lambda page: (page.live.now().goal_m, page.live.held))
        seen: list[int] = []
        live.ask(lambda page: page.server.on_client_connect(lambda client: seen.append(client.client_id)))
        try:
            with (
                chromium(f"--host-resolver-rules={elsewhere}, EXCLUDE 127.0.0.1, EXCLUDE localhost") as browser,
                browsing(browser) as (page, _),
            ):
                page.goto("http://evil.example/")
                page.wait_for_function("window.done.length === 9")
                assert page.evaluate("window.received") == 0
                assert all("127.0.0.1" not in frame.url for frame in page.frames)
                site.requests.clear()
                rebound = page.goto(f"http://evil.example:{port_of(live)}/")
                assert rebound is not None
                assert rebound.status == 403
                assert seen == []
                # The viewer's client connects to any server that its address names, unless its policy forbids it.
                page.goto(f"{live.url}/?websocket=ws://evil.example/")
                page.wait_for_timeout(3000)
                page.goto(f"{live.url}/?playbackPath=http://evil.example/")
                page.wait_for_timeout(1000)
                assert site.requests == []
                assert live.ask(lambda page: (page.live.now().goal_m, page.live.held)) == goal_m
                assert seen == []
                # The viewer's own page connects.
                page.goto(live.url)
                wait_until(lambda: seen)
                assert site.requests == []
        finally:
            site.close()

    def test_nothing_of_a_recording_runs_or_is_fetched(self, usual: Trajectory, tmp_path: Path) -> None:
        """Neither in the live page nor in a saved one."""
        trajectory = hostile(usual, tmp_path)
        site, expected_message = Site(""), list[str]()
        save_page([trajectory], tmp_path / "page.html")
        served = Served(lambda server: PlayedPage(server, [trajectory]))
        try:
            with chromium(f"--host-resolver-rules=MAP * 127.0.0.1:{site.port}, EXCLUDE 127.0.0.1") as browser:
                for address in (served.url, (tmp_path / "page.html").as_uri()):
                    with browsing(browser) as (page, errors):
                        page.on("console", lambda message: expected_message.append(message.text))
                        page.goto(address)
                        page.frames[-1].wait_for_selector("canvas")
                        wait_until(lambda: payload("file") in page.inner_text("body"))
                        page.wait_for_timeout(2000)
                        for frame in page.frames:
                            assert frame.evaluate("window.pwned || null") is None
                            assert frame.locator("img[src*=evil]").count() == 0
                        assert errors == []
                        assert [line for line in expected_message if "Content Security Policy" in line] == []
            assert site.requests == []
        finally:
            served.close()
            site.close()
