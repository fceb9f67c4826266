"""What happened within optimiser steps, of the events that the pretended device noted."""

from __future__ import annotations

from collections.abc import Iterable

from pretended import Event

EPOCH = "train/loop.py:_epoch"
BACKWARD = ()  # the backward pass has a thread of its own, in which no function of this package is being called
# What may wait for the device while steps follow each other, and why.
BETWEEN_STEPS = {
    "train/loop.py:_log": "a log line tells losses, which are on the device",
    "train/loop.py:_save": "a checkpoint holds the weights",
}


def of_steps(events: Iterable[Event]) -> list[Event]:
    """Those of the training's steps, without log lines and checkpoints."""
    return [
        event
        for event in events
        if event.calls == BACKWARD or (EPOCH in event.calls and not any(call in BETWEEN_STEPS for call in event.calls))
    ]


def slow(events: Iterable[Event]) -> list[str]:
    """Waits for the device, and copies from memory that is not pinned."""
    return [str(event) for event in events if event.kind in ("wait", "pageable")]


def copies(events: Iterable[Event]) -> list[Event]:
    """Copies to the device as they should be."""
    return [event for event in events if event.kind == "pinned"]
