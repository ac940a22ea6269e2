"""One writer at a time, on both storages: who waits goes on after the holder, or gives up for now."""

from __future__ import annotations

import threading
import time

import pytest

from cm_dagster.errors import LedgerError
from cm_dagster.ledger import locks
from cm_dagster.ledger.locks import one_writer
from cm_dagster_tests.integration.ledger_rig import Rig


def test_writers_take_turns(rig: Rig) -> None:
    order: list[str] = []
    inside = threading.Event()

    def first() -> None:
        with one_writer(rig.instance, "plan/camp/step1"):
            inside.set()
            time.sleep(0.3)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with one_writer(rig.instance, "plan/camp/step1"):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_a_holder_that_does_not_go_on_makes_others_give_up_for_now(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_PATIENCE", 0.3)
    with one_writer(rig.instance, "plan/camp/step1"):
        with one_writer(rig.instance, "plan/camp/step2"):
            pass  # another thing is nobody's business
        waiting = one_writer(rig.instance, "plan/camp/step1")
        with pytest.raises(LedgerError, match="another process has been changing plan/camp/step1") as caught:
            waiting.__enter__()
        assert caught.value.transient
    with one_writer(rig.instance, "plan/camp/step1"):
        pass
