"""The congestion window of requests."""

from hyperdht.rpc.window import MAX_IN_ALL, MAX_PER_SLOT, SLOTS, CongestionWindow


def send(window: CongestionWindow, count: int) -> None:
    for _ in range(count):
        window.sent()


def test_eighty_in_one_slot_and_a_hundred_and_sixty_in_all() -> None:
    window = CongestionWindow()
    send(window, MAX_PER_SLOT - 1)
    assert not window.is_full
    send(window, 1)
    assert window.is_full
    window.step()
    assert not window.is_full
    send(window, MAX_IN_ALL - MAX_PER_SLOT - 1)
    window.step()
    assert not window.is_full
    send(window, 1)
    assert window.is_full
    for _ in range(SLOTS - 2):
        window.step()
    assert not window.is_full


def test_each_answer_makes_room_in_the_current_slot_only() -> None:
    window = CongestionWindow()
    send(window, MAX_PER_SLOT)
    window.settled()
    assert not window.is_full
    window.step()
    window.settled()  # nothing was sent in this slot
    send(window, MAX_PER_SLOT)
    assert window.is_full
