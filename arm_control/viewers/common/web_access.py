"""The guard of the web viewer: which requests are answered, and which messages of a browser are accepted.

A page of any site can send requests to a server on this machine. Two headers that no page can forge identify them:
`Host`, the address that the browser opened, and `Origin`, the address of the page that sends the request.
"""

import re
import socket
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Any
from unittest import mock

import msgspec
import viser
import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

MAX_MESSAGE_BYTES = 64 * 1024  # the longest that a browser sends is a few hundred
MAX_CONNECTIONS = 64  # a browser holds one, and up to six more while it loads the page
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
ADDRESS = re.compile(r"(\[[0-9a-f:.]+\]|[^][:/@%\s]+)(?::([0-9]{1,5}))?")

# What pages may load: nothing from elsewhere, so that even injected scripts cannot send anything.
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob: data:; worker-src blob: data:; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'; "
)


class Access:
    """The addresses at which a viewer is served: those of loopback and of the host that it listens on.

    With a host that means all addresses, such as 0.0.0.0, it is served at each IP address and at this machine's name.
    The name of another site is never served, even if it resolves to this machine (DNS rebinding).
    """

    def __init__(self, host: str) -> None:
        """Raises OSError for an unknown host."""
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        addresses = {ip_address(str(entry[4][0]).partition("%")[0]) for entry in found}
        self._names = {*LOOPBACK, host.lower(), *map(in_url, addresses)}
        self._every_address = any(address.is_unspecified for address in addresses)
        if self._every_address:
            own_name = socket.gethostname().lower()
            self._names |= {own_name, f"{own_name}.local"}

    def allows(self, hosts: Sequence[str], origins: Sequence[str], port: int) -> bool:
        """Return True if a request is to be answered that has these `Host` and `Origin` headers.

        Programs other than browsers send no `Origin`, and neither does a browser that loads the page.
        """
        if len(hosts) != 1 or len(origins) > 1:
            return False
        address = parse_address(hosts[0])
        if address is None or address[1] != port or not self._serves(address[0]):
            return False
        return not origins or (origins[0].lower().startswith("http://") and parse_address(origins[0][7:]) == address)

    def _serves(self, name: str) -> bool:
        return name in self._names or (self._every_address and is_ip_address(name))


def parse_address(address: str) -> tuple[str, int] | None:
    """The name and port of `name:port` in a header; None if malformed. All names of loopback become localhost."""
    match = ADDRESS.fullmatch(address.lower())
    if match is None:
        return None
    name, port = match.groups()
    return ("localhost" if name in LOOPBACK else name), int(port or 80)


def in_url(address: IPv4Address | IPv6Address) -> str:
    """An IP address in the notation of URLs."""
    return f"[{address}]" if address.version == 6 else str(address)


def is_ip_address(name: str) -> bool:
    """Return True if a name in a URL is an IP address."""
    try:
        return in_url(ip_address(name.strip("[]"))) == name
    except ValueError:
        return False


# Messages of a browser that the viewer needs, as viser's client sends them. All others are dropped before they reach
# viser: requests for a public tunnel, uploads, properties of controls other than their values, numbers out of range.

Number = Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]
Metres = Annotated[float, msgspec.Meta(ge=-1e3, le=1e3)]
Pixels = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
Vector = tuple[Number, Number, Number]
Quaternion = tuple[Number, Number, Number, Number]


class BrowserMessage(msgspec.Struct, tag_field="type", tag=True, omit_defaults=True):
    """A message, identified by the name of its class; unknown fields are dropped."""


class ViewerCameraMessage(BrowserMessage):
    """The pose of a browser's camera; the first one makes the browser a client."""

    wxyz: Quaternion
    position: Vector
    fov: Number
    near: Number
    far: Number
    image_height: Pixels
    image_width: Pixels
    look_at: Vector
    up_direction: Vector


class ControlValue(msgspec.Struct, forbid_unknown_fields=True):
    """The only property of a control that a browser changes."""

    value: bool | Number | str


class GuiUpdateMessage(BrowserMessage):
    """A control was used."""

    uuid: str
    updates: ControlValue


class TransformControlsDragStartMessage(BrowserMessage):
    """The user began to drag the goal."""

    name: str
    owner: str = ""


class TransformControlsUpdateMessage(BrowserMessage):
    """The goal was dragged."""

    name: str
    wxyz: Quaternion
    position: tuple[Metres, Metres, Metres]
    owner: str = ""


class TransformControlsDragEndMessage(BrowserMessage):
    """The user released the goal."""

    name: str
    owner: str = ""


DECODER = msgspec.msgpack.Decoder(
    ViewerCameraMessage
    | GuiUpdateMessage
    | TransformControlsDragStartMessage
    | TransformControlsUpdateMessage
    | TransformControlsDragEndMessage
)


def accepted(message: str | bytes) -> bytes | None:
    """The message, re-encoded from the fields that the viewer needs; None if it is not accepted."""
    if isinstance(message, str):
        return None
    try:
        return msgspec.msgpack.encode(DECODER.decode(message))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


class GuardedConnection(ServerConnection):
    """A connection that drops all messages that are not accepted."""

    def connection_made(self, transport: Any) -> None:
        """Close connections above the limit before they use memory or file descriptors."""
        super().connection_made(transport)
        if len(self.server.handlers) > MAX_CONNECTIONS:
            transport.abort()

    async def recv(self, decode: bool | None = None) -> Any:  # bytes; its overloads have more types
        """Receive the next accepted message."""
        while True:
            message = accepted(await super().recv(decode))
            if message is not None:
                return message


def start_guarded(host: str, port: int) -> viser.ViserServer:
    """Start a server of viser behind the guard. Raises OSError for an unknown host.

    The guard consists of public options of the package `websockets`, which viser offers no way to pass to its server.
    So a subclass that adds them replaces the server's class until viser has started it. Raises RuntimeError, and serves
    nothing, if viser has started its server in another way.
    """
    access = Access(host)
    guarded = []

    class GuardedServer(websockets.asyncio.server.serve):
        """The server that viser creates, with the guard's options."""

        def __init__(self, *arguments: Any, process_request: Any, **options: Any) -> None:
            options |= {"create_connection": GuardedConnection, "max_size": MAX_MESSAGE_BYTES}
            super().__init__(*arguments, process_request=partial(answer, access, process_request), **options)
            guarded.append(self)

    with mock.patch.object(websockets.asyncio.server, "serve", GuardedServer):
        server = viser.ViserServer(host=host, port=port, verbose=False)
    if not guarded:
        server.stop()
        raise RuntimeError(
            f"the web viewer does not support viser {viser.__version__}: expected 1.1 (pip install 'viser==1.1.*')"
        )
    # A value of the wrong type for its control raises an error in a task of viser: ignore it, print nothing.
    loop = server.get_event_loop()
    loop.call_soon_threadsafe(loop.set_exception_handler, lambda loop, context: None)
    return server


def answer(access: Access, respond: Any, connection: ServerConnection, request: Request) -> Response | None:
    """Reject requests of other sites and let viser answer all others; returns None to open a websocket."""
    hosts = request.headers.get_all("Host")
    port = connection.local_address[1]
    if not access.allows(hosts, request.headers.get_all("Origin"), port):
        known = f"http://localhost:{port} or, on another machine, the IP address of this one"
        return connection.respond(HTTPStatus.FORBIDDEN, f"not an address of the viewer: expected {known}\n")
    response: Response | None = respond(connection, request)
    if response is not None:
        # Do not let a page of another site embed this one in a frame (clickjacking).
        own = f"connect-src data: blob: 'self' ws://{hosts[0]}; frame-ancestors 'none'"
        response.headers["Content-Security-Policy"] = PAGE_POLICY + own
    return response
