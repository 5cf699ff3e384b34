"""Calling what a program gave us to call: its errors are its own, and end neither a connection nor the node."""

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)


def guarded(hook: Callable[P, T], *, instead: T, name: str) -> Callable[P, T]:
    """`hook`, or `instead` when it raises, which is logged."""

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return hook(*args, **kwargs)
        except Exception as error:
            report(error, name)
            return instead

    return call


def report(error: Exception, name: str) -> None:
    """Log what a hook raised."""
    _log.error("the hook %s failed", name, exc_info=error)
