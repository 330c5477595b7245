"""The two families of failure, and every error that belongs to one of them.

A permanent error fails again with the same input: it is recorded, the event is acknowledged, HTTP answers 4xx.
A transient error may pass next time: it escapes to the platform, which delivers again; HTTP answers 503.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar


class RowdockError(Exception):
    """Base of every error that Rowdock raises on purpose.

    Attributes:
        code: stable, dotted, lower case; safe to show to a client and to write to a log.
        fields: what a log line says of it besides; never a value from a row.
        message_is_safe: the message may be written to a log, for it never holds a value of a row, text of the database
            or of a stranger, a path or a secret, whoever raises it. Names of buckets, objects, hosts, tables and
            constraints it may hold: an operator has nothing else to search by.
    """

    code: ClassVar[str] = "error"
    fields: Mapping[str, Any] = MappingProxyType({})
    message_is_safe: ClassVar[bool] = False


class PermanentError(RowdockError):
    """The same input fails again: acknowledge the event, answer 4xx."""

    code = "permanent"


class DeploymentError(PermanentError):
    """Not the input but the deployment is wrong: nothing passes until an operator mends it, so answer 500, not 4xx."""

    code = "deployment"


class TransientError(RowdockError):
    """The same call may succeed later: let it escape, answer 503.

    Attributes:
        retry_after_s: seconds after which a retry makes sense.
    """

    code = "transient"
    retry_after_s: int = 5


class SettingsError(DeploymentError):
    """A setting is absent or has a value that cannot be used; the message names the variable, never its value."""

    code = "settings"
    message_is_safe = True  # names of variables and what they take


class DictionaryError(DeploymentError):
    """The data dictionary contradicts itself; the message names the table, the column and the remedy."""

    code = "dictionary"
    message_is_safe = True  # what shared/dictionary.toml says, which is ours


class UnknownTable(PermanentError):
    """No table's file pattern matches the object's name; the message lists the patterns."""

    code = "file.unknown_table"
    message_is_safe = True  # an object's name and patterns of the dictionary


class AmbiguousTable(PermanentError):
    """More than one table's file pattern matches the object's name; the message names them."""

    code = "file.ambiguous_table"
    message_is_safe = True  # an object's name and patterns of the dictionary


class FileRefused(PermanentError):
    """The file as a whole cannot be read as rows of its table; the message may quote it, so that no log gets it.

    Args:
        code: stable code such as ``file.header``, ``file.encoding``, ``file.compression``.
        message: what is wrong, with which value, and what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # an instance's own code; the class attribute is the default


class EventRefused(PermanentError):
    """The request is no event that this function understands; the message says why, and may quote the sender."""

    code = "event"


class RequestRefused(PermanentError):
    """The request asks for nothing that this function does; the message says what it takes, and may quote it."""

    code = "request"


class CallerRefused(PermanentError):
    """The caller did not prove that it is one of the identities that may call this function."""

    code = "caller"
    message_is_safe = True  # fixed sentences; of a token only which check it failed


class ObjectNotFound(PermanentError):
    """The store has no such object, or no longer that generation of it."""

    code = "object.not_found"
    message_is_safe = True  # an object's URI, and the status or error code that the store gave


class ObjectExists(PermanentError):
    """A create-only write found an object of that name."""

    code = "object.exists"
    message_is_safe = True  # an object's URI, and the status or error code that the store gave


class StoreRefused(DeploymentError):
    """The object store will not do it: credentials, rights, no such bucket, a name it does not take."""

    code = "object.refused"
    message_is_safe = True  # an object's URI, and the status or error code that the store gave


class StoreUnavailable(TransientError):
    """The object store did not answer, or answered that it cannot now."""

    code = "object.unavailable"
    message_is_safe = True  # an object's URI, and the status or error code that the store gave


class ServiceUnavailable(TransientError):
    """What takes our events, gives us tokens or publishes keys did not answer, or did not accept."""

    code = "service.unavailable"
    message_is_safe = True  # a host, a status, and ids and types of our own events


class DatabaseUnavailable(TransientError):
    """PostgreSQL cannot be reached, is starting or stopping, or has no free connection."""

    code = "database.unavailable"
    message_is_safe = True  # fixed sentences, SQLSTATEs, numbers


class DatabaseBusy(TransientError):
    """A lock, a deadlock, a serialization failure or a twin stands in the way; the same transaction may pass later."""

    code = "database.busy"
    message_is_safe = True  # fixed sentences, SQLSTATEs, names of objects and constraints


class DeadlineExceeded(TransientError):
    """The server ended the statement or transaction at the deadline it was given."""

    code = "database.deadline"
    message_is_safe = True  # fixed sentences, SQLSTATEs, seconds


class ConstraintViolation(PermanentError):
    """PostgreSQL refused a row: class 23 of its error codes (PostgreSQL manual, appendix A).

    Attributes:
        sqlstate: five characters.
        constraint: name of the constraint, or None.
    """

    code = "database.constraint"
    message_is_safe = True  # SQLSTATE and the constraint's name; the server's text, with its values, is left out

    def __init__(self, message: str, *, sqlstate: str = "23000", constraint: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.constraint = constraint


class DatabaseMisuse(DeploymentError):
    """PostgreSQL refused the statement itself: rights, syntax, types. A defect or a missing migration."""

    code = "database.misuse"
    message_is_safe = True  # fixed sentences, SQLSTATEs, classes of the driver


class ServerTooOld(DeploymentError):
    """The server is older than PostgreSQL 18, which the keys need (NOT ENFORCED)."""

    code = "database.too_old"
    message_is_safe = True  # two versions


class NotRepresentable(PermanentError):
    """A column holds what a backup's format cannot hold; the message names the column and the remedy."""

    code = "backup.not_representable"
    message_is_safe = True  # a column's name and fixed sentences


class BackupDamaged(PermanentError):
    """A part of a backup is not what was written, or not what it says it is; the message names the part and the check.

    Nothing of it may be used: bytes, row counts and checksums are compared so that this is known before a commit.
    """

    code = "backup.damaged"
    message_is_safe = True  # an object's name, positions, counts and checksums


class NotReady(TransientError):
    """This deployment cannot do its work yet; the message says what it waits for."""

    code = "not_ready"
    message_is_safe = True  # names of migrations


class NoSuchBackup(PermanentError):
    """There is no backup of that id or that old, or it does not hold the table; the message may quote who asked."""

    code = "backup.not_found"


class NoSuchTable(PermanentError):
    """A table that was asked for is none; the message lists those that are, and may quote who asked."""

    code = "table.not_found"


class BackupRunning(TransientError):
    """Another backup is under way: come back, and it is done."""

    code = "backup.running"
    message_is_safe = True  # a fixed sentence
    retry_after_s = 30


class BackupDiffers(PermanentError):
    """A backup of that instant is there already, of other tables than were asked for."""

    code = "backup.differs"
    message_is_safe = True  # an id and names of tables


class BackupFailed(DeploymentError):
    """What was written is not what the database says that it holds: nothing was published, and there is a defect."""

    code = "backup.failed"
    message_is_safe = True  # names of tables and objects, counts and checksums


class RestoreRefused(PermanentError):
    """A backup does not fit what is there now, or the request does not say enough; the message says what to do."""

    code = "restore.refused"


class RestoreFailed(DeploymentError):
    """What a restore left is not what was backed up: nothing was committed, and there is a defect."""

    code = "restore.failed"
    message_is_safe = True  # names of tables, counts
