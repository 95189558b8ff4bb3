"""The web viewer as `serve` runs it, in a thread of the test."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from arm_control.viewers.common.stage import serving
from arm_control.viewers.web.page import Page

DEADLINE_S = 90


class Served:
    """A page of the viewer, updated in a thread of its own as `serve` does it."""

    def __init__(self, make: Callable[[Any], Page]) -> None:
        self._make, self._jobs, self._stop = make, queue.SimpleQueue[Callable[[], None]](), threading.Event()
        self.url: str = ""
        self.page: Any = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(60)

    def _run(self) -> None:
        with serving("127.0.0.1", 8300) as server:
            self.url = f"http://127.0.0.1:{server.get_port()}"
            self.page = self._make(server)
            self._ready.set()
            while not self._stop.is_set():
                while not self._jobs.empty():
                    self._jobs.get()()
                self.page.update()
                time.sleep(1 / 60)

    def ask(self, get: Callable[[Any], Any]) -> Any:
        """The result of a function that the page's own thread calls with the page."""
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._jobs.put(lambda: answer.put(get(self.page)))
        return answer.get(timeout=60)

    def close(self) -> None:
        """Stop the thread and the server."""
        self._stop.set()
        self._thread.join(60)
