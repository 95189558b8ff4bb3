"""Real-time priority of the control loop."""

import json
import os
import subprocess
import sys

from locations import ROOT

# Prints the schedulers of the main thread, of a thread, and of a process that start after it.
PRIORITIES = """
import json, os, subprocess, sys, threading
from arm_control.runner.priority import request_priority

message = request_priority()
found = []
thread = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))
thread.start()
thread.join()
code = "import os; print(os.sched_getscheduler(0))"
child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
own = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
print(json.dumps({"message": message, "own": own, "thread": found[0], "child": child}))
"""


class TestPriority:
    """Real-time priority is the control loop's alone."""

    def test_threads_and_processes_that_start_later_have_ordinary_priority(self) -> None:
        """A thread that checks goals at the loop's priority would keep it from reading the arm."""
        done = subprocess.run(
            [sys.executable, "-c", PRIORITIES], capture_output=True, text=True, cwd=ROOT, env=os.environ, check=True
        )
        figures = json.loads(done.stdout)
        assert figures["thread"] == figures["child"] == os.SCHED_OTHER
        assert figures["own"] == (os.SCHED_FIFO if ": yes" in figures["message"] else os.SCHED_OTHER)
