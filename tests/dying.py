"""A process that kills itself, as bad luck would: what a test puts around the calls of the code that it tries."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(call: Callable[..., Any], times: int = 1) -> Callable[..., Any]:
    """Wrap ``call`` so that its ``times``-th return is the last thing that happens."""
    left = [times]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        left[0] -= 1
        if left[0] == 0:
            die()
        return result

    return wrapped


def before(call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        die()
        return call(*args, **kwargs)

    return wrapped
