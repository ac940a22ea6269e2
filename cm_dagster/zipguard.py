"""Cure for CPython bug gh-127847, which makes quantum graphs read wrongly.

On CPython 3.12.0-3.12.8 and 3.13.0-3.13.1 a relative seek in a member of an uncompressed zip file moves from where
*another* member was last read, not from where this one was. Quantum graph files (``.qg``) are such zip files, with
members that are read in turn, so ``bps`` and ``pipetask`` get wrong data or an `EOFError`.

The wheel puts ``cm_dagster_zipguard.pth`` beside the package, so that every process of the environment (also those that
are not ours) imports this module at start and calls `install`. It must therefore import nothing but `sys` where the
interpreter is sound. Python reads ``.pth`` files in alphabetical order: that name comes after that of an editable
install (``_cm_dagster.pth``), which makes the package importable.
"""

import sys

__all__ = ["affected", "install", "installed"]


def affected(version_info: tuple[int, int, int, *tuple[object, ...]] = sys.version_info) -> bool:
    """Tell whether a CPython release has the bug.

    Parameters
    ----------
    version_info
        Version as in `sys.version_info`; that of the running interpreter by default. Parts after the third are not
        looked at.

    Returns
    -------
    bool
        `True` if the release reads interleaved zip members wrongly.
    """
    release = version_info[:3]
    return (3, 12, 0) <= release < (3, 12, 9) or (3, 13, 0) <= release < (3, 13, 2)


def install() -> None:
    """Replace the faulty method of `zipfile` by that of the fixed releases, in this process.

    Does nothing on a sound interpreter, and nothing when called again.
    """
    if not affected() or installed():
        return
    import zipfile

    def seek(self, offset, whence=0):  # type: ignore[no-untyped-def]
        with self._lock:
            if self._writing():
                raise ValueError(
                    "Can't reposition in the ZIP file while there is an open writing handle on it. "
                    "Close the writing handle before trying to read."
                )
            if whence == 1:  # os.SEEK_CUR: from where this member was last read
                self._file.seek(self._pos + offset)
            else:
                self._file.seek(offset, whence)
            self._pos = self._file.tell()
            return self._pos

    zipfile._SharedFile.seek = seek  # type: ignore[attr-defined]


def installed() -> bool:
    """Tell whether this process has the guard.

    Returns
    -------
    bool
        `True` after `install` on an affected interpreter; `False` on a sound one, which needs none.
    """
    zipfile = sys.modules.get("zipfile")
    return zipfile is not None and zipfile._SharedFile.seek.__module__ == __name__
