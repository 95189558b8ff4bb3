"""The web viewer: a page served to any browser."""

from dataclasses import dataclass
from functools import partial

from arm_control.viewers.common.viewer import Show, Viewer

HOST = "127.0.0.1"
PORT = 8080


@dataclass(frozen=True)
class WebFlags:
    """Flags of --viewer web."""

    port: int | None = None
    """Port to listen on (default: 8080)."""
    host: str | None = None
    """Address to listen on, without a password (default: 127.0.0.1, which only this machine can reach)."""

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ValueError(f"--port: expected 1 to 65535, got {self.port}")


def load_show(flags: WebFlags) -> Show:
    """Load the server, for the host and port of the flags."""
    from arm_control.viewers.web.pages import serve

    host = HOST if flags.host is None else flags.host
    port = PORT if flags.port is None else flags.port
    return partial(serve, host=host, port=port)


VIEWER = Viewer(
    summary="a page in a browser (default otherwise)",
    max_sources=2,
    load_show=load_show,
    flags=WebFlags,
    default_priority=lambda source_count: 1,
)
