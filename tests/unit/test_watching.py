"""The watch over a run: Ctrl-C becomes an error for the user, and who is slow is named."""

import os
import signal
import threading
import time

import pytest

from bitclass3_core.errors import Bitclass3Error, CrashError, InterruptedRunError
from bitclass3_core.plugin.at_work import all_at_work, at_work, where, working
from bitclass3_core.runs import watch
from bitclass3_core.testing import Recorded


def wait_for_ctrl_c():
    with watch.watched(Recorded()):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)


def test_ctrl_c_is_an_error_for_the_user():
    with pytest.raises(InterruptedRunError, match="interrupted; what was measured is kept, run the same command again to go on"):
        wait_for_ctrl_c()


def test_slow_plugin_is_named(monkeypatch):
    monkeypatch.setattr(watch, "SLOW_SECONDS", 0.0)
    progress = Recorded()
    with watch.watched(progress), working("snail", "bitclass3_solve"):
        for _ in range(200):
            if progress.lines:
                break
            time.sleep(0.05)
    assert progress.lines[0].startswith("plugin 'snail' has been at work in bitclass3_solve for 0:0")


def test_threads_know_their_own_plugin():
    names = []

    def inside():
        with working("other", "bitclass3_measure"):
            names.append(at_work().plugin)

    with working("mine", "bitclass3_solve"):
        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        assert (at_work().plugin, names) == ("mine", ["other"])
        assert [work.plugin for _, work in all_at_work()] == ["mine"]
        assert where(threading.get_ident()).startswith("test_watching.py line ")
    assert at_work() is None


def test_errors_have_exit_codes():
    with pytest.raises(Bitclass3Error, match="broken"):
        raise CrashError("broken")
    assert CrashError("x").exit_code == 1
