from __future__ import annotations

from gateway.fanout.wheel import TICK, Wheel


class Item:
    def __init__(self, *answers: float | None) -> None:
        self.answers = list(answers)
        self.called: list[float] = []
        self.aborted = False

    def on_deadline(self, now: float) -> float | None:
        self.called.append(now)
        answer = self.answers.pop(0)
        if answer == -1:
            raise RuntimeError
        return answer

    def abort(self) -> None:
        self.aborted = True


def test_an_item_is_called_at_its_deadline_and_again_at_its_answer() -> None:
    wheel, item = Wheel(100.0), Item(103.0, None)
    wheel.add(item, 101.0)
    for tick in range(60):
        wheel.advance(100.0 + tick * TICK)
    assert len(item.called) == 2
    assert 101.0 <= item.called[0] <= 101.0 + 2 * TICK
    assert 103.0 <= item.called[1] <= 103.0 + 2 * TICK


def test_a_deadline_in_the_past_is_the_next_tick_and_a_jump_in_time_loses_nobody() -> None:
    wheel, late, far = Wheel(100.0), Item(None), Item(None)
    wheel.add(late, 5.0)
    wheel.add(far, 160.0)
    wheel.advance(100.0 + 2 * TICK)
    assert late.called
    wheel.advance(1000.0)
    assert far.called


def test_a_broken_item_is_given_up_and_the_others_go_on() -> None:
    wheel, broken, fine = Wheel(100.0), Item(-1), Item(None)
    wheel.add(broken, 100.5)
    wheel.add(fine, 100.5)
    wheel.advance(101.0)
    assert broken.aborted
    assert fine.called
