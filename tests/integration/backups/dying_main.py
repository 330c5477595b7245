"""The backup function, which kills itself at the point that ``ROWDOCK_DIE_AT`` names, as bad luck would."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from functions.backup.main import backup
from shared.backups import take
from tests.dying import after, before

__all__ = ["backup"]


def in_the_second_table(copy_out: Callable[..., Any]) -> Callable[..., Any]:
    """Rows of it were read and encoded, and none of it is committed."""
    tables = [0]

    def wrapped(*args: Any, on_progress: Callable[[int], None], **kwargs: Any) -> Any:
        tables[0] += 1
        return copy_out(*args, on_progress=after(on_progress) if tables[0] == 2 else on_progress, **kwargs)

    return wrapped


match os.environ["ROWDOCK_DIE_AT"]:
    case "after the snapshot":
        take._locked_snapshot = after(take._locked_snapshot)
    case "after the first part":
        take.copy_out = after(take.copy_out)
    case "in the middle of the second table":
        take.copy_out = in_the_second_table(take.copy_out)
    case "after the last part":
        take.copy_out = after(take.copy_out, 2)
    case "before the manifest":
        take._Run._publish = before(take._Run._publish)  # type: ignore[method-assign]
    case "after the manifest, before the answer":
        take._Run._publish = after(take._Run._publish)  # type: ignore[method-assign]
    case "":
        pass
    case other:
        raise ValueError(other)
