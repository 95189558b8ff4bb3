"""The clocks of a control loop."""

from arm_control.runner.clocks import FastTime, RealTime


def test_the_clocks() -> None:
    fast, real = FastTime(), RealTime()
    assert (fast.waits, real.waits) == (False, True)
    fast.wait_until(3.0)
    fast.wait_until(1.0)
    assert fast.now_s() == 3.0
    begin = real.now_s()
    real.wait_until(begin - 1.0)
    real.wait_until(begin + 0.01)
    assert real.now_s() >= begin + 0.01
