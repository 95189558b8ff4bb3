"""The clocks of a control loop."""

from arm_control.runner.clocks import FastTime, RealTime


def test_clocks_wait_until_a_time_and_never_go_back() -> None:
    """The fast clock jumps, the real one sleeps, and times in the past return at once."""
    fast, real = FastTime(), RealTime()
    assert (fast.waits, real.waits) == (False, True)
    fast.wait_until(3.0)
    fast.wait_until(1.0)
    assert fast.now_s() == 3.0
    begin = real.now_s()
    real.wait_until(begin - 1.0)
    real.wait_until(begin + 0.01)
    assert real.now_s() >= begin + 0.01
