"""Real-time priority of the control loop."""

import os


def request_priority() -> str:
    """Request real-time priority for this thread, not for threads that it starts; returns a line with the outcome."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(10))
    except (OSError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or "this system has none"
        return f"real-time priority: no ({reason}; 'ulimit -r 10' or CAP_SYS_NICE allows it): ticks may be delayed"
    return "real-time priority: yes (SCHED_FIFO 10)"
