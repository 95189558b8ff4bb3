"""The web viewer: a page for any browser that shows the arm and lets the user drag its goal."""

import errno
import socket
from collections.abc import Callable, Sequence

from arm_control.viewers.common.live import LiveArm
from arm_control.viewers.common.playback import paced
from arm_control.viewers.common.stage import serving
from arm_control.viewers.common.trajectory import Trajectory
from arm_control.viewers.web.live_page import LivePage
from arm_control.viewers.web.played_page import PlayedPage


def serve(
    shown: LiveArm | Sequence[Trajectory],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    say: Callable[[str], None] = print,
) -> None:
    """Serve a page until Ctrl-C. Raises OSError for an address that it cannot listen on."""
    check_port(host, port)
    with serving(host, port) as server:
        if server.get_port() != port:  # another program took it in the meantime
            raise OSError(f"port {port} is in use: choose another with --port")
        page = LivePage(server, shown) if isinstance(shown, LiveArm) else PlayedPage(server, shown)
        name = f"[{host}]" if ":" in host else host
        say(f"http://{name}:{port}   open it in a browser; press Ctrl-C to stop")
        paced(page.update)


def check_port(host: str, port: int) -> None:
    """Raise OSError for an address that cannot be listened on: viser would silently take another port."""
    try:
        # A name can have IPv4 and IPv6 addresses, and the server listens on all of them.
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.create_server(address, family=family):
                pass
    except (OSError, UnicodeError) as error:  # UnicodeError: an invalid host name
        why = getattr(error, "strerror", None) or "no such host"
        taken = getattr(error, "errno", None) == errno.EADDRINUSE
        reason = "is in use" if taken else f"cannot be opened on {host} ({why})"
        raise OSError(f"port {port} {reason}: choose another with --port") from None
