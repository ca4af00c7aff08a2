"""Files that the user asked for: written whole or not at all, and over no other file unless told so."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

from voicechat.errors import UsageError


def write_text(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write a file in UTF-8.

    Args:
        path: Where to.
        text: What; halves of characters become question marks.
        overwrite: Whether a file that is there may go.

    Raises:
        UsageError: There is a file already.
        OSError: It cannot be written. What was there is as it was.
    """
    target = path.resolve()  # a link stays one
    if target.exists() and not (overwrite and target.is_file()):
        raise UsageError(f"{path} exists already." if target.is_file() else f"{path} is not a file to write over.")
    temporary = target.with_name(f".voicechat-{uuid.uuid4().hex}")
    try:
        with temporary.open("x", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(target)
        else:
            _publish(temporary, target)
    except FileExistsError as error:
        raise UsageError(f"{path} exists already.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, target: Path) -> None:
    """Give a file its name, unless another has it by now."""
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        if target.exists():  # a file system without links
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        temporary.replace(target)
