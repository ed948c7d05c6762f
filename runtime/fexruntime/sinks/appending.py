"""A file that grows as rows come, and survives the death of its process at any instant.

Rows are appended to TARGET.part. A commit writes them through to the disk and only then a line in TARGET.journal: how
many bytes are whole, and what a later run goes on from. So the journal is never ahead of the rows; a resumed run cuts the
part back to the last whole commit. Each line has its checksum: one that the disk changed is never gone on from. The target itself is
made in the end, whole.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from fexruntime.errors import FexportError, InputError, OutputError, one_line, quoted
from fexruntime.files import file_sha256, replacing
from fexruntime.sinks.formats import Format, Schema, Table

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_COMPACT_BYTES = 16 << 20
"""A journal that has grown past this, and past four times what it holds, is written anew."""


def journal_line(value: Mapping[str, Any]) -> bytes:
    """A line of a journal: the CRC-32 of its JSON in 8 hex digits, a space, the JSON."""
    return journal_text(json.dumps(value).encode())


def journal_text(text: bytes) -> bytes:
    """A line of a journal, from its JSON as text."""
    return b"%08x %b\n" % (zlib.crc32(text), text)


class Appending:
    """Rows appended to `target`'s part. `run` says what run this is: a part is gone on with by the same run alone. `once`: by none,
    since its source cannot be read again, so no error speaks of --resume.

    Raises InputError if an unfinished run's rows are there and `resume` was not asked for, or if it was another run;
    OutputError if it cannot be written, or if another process writes it.
    """

    def __init__(
        self,
        target: Path,
        form: Format,
        schema: Schema,
        run: Mapping[str, Any],
        resume: bool = False,
        once: bool = False,
    ) -> None:
        self.target, self._form, self._schema = target, form, schema
        self.part = target.with_name(target.name + ".part")
        self._journal_path = target.with_name(target.name + ".journal")
        self._run, self._once = json.loads(json.dumps(dict(run))), once
        self.committed: dict[str, Any] = {}
        """What the last commit said, merged over all: empty before the first."""
        self.rows = 0
        """Rows written, committed or not, and those of a write that failed."""
        self._journal_bytes = 0
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with self.reading():
                self._open(resume)
        except OSError as error:
            raise self._refused(error) from None

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Whatever does not fit in what a journal says is one InputError: it was changed, or is not of this version."""
        try:
            yield
        except FexportError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            raise self._damaged(one_line(error)) from None

    def _damaged(self, why: str) -> InputError:
        return InputError(
            f"{str(self._journal_path)!r} is damaged ({quoted(why)}): delete it and {self.part.name!r} and begin anew"
        )

    def _open(self, resume: bool) -> None:
        lines = self._read_journal()
        unfinished = bool(lines and lines[1:])
        if unfinished and not resume:
            rows = _counted(lines[-1]["rows"])
            if self._once:
                raise InputError(
                    f"{str(self.part)!r} has {rows} of a run that did not end: move it elsewhere, or delete it, and delete "
                    f"{self._journal_path.name!r} to begin anew"
                )
            raise InputError(
                f"{str(self.part)!r} has {rows} of a run that did not end: go on with --resume, or delete it and "
                f"{self._journal_path.name!r} to begin anew"
            )
        if unfinished and not self.part.exists():
            raise InputError(f"{str(self.part)!r} is gone: delete {str(self._journal_path)!r} and begin anew")
        self._file: BinaryIO = self.part.open("r+b" if unfinished else "w+b")
        try:
            self._lock()
            if unfinished:
                self._go_on(lines)
            else:
                self._begin()
        except BaseException:
            self._file.close()
            raise

    def _begin(self) -> None:
        self._file.write(self._form.head(self._schema))
        self._write_journal([{"run": self._run}])

    def _go_on(self, lines: list[dict[str, Any]]) -> None:
        different = differences(lines[0]["run"], self._run)
        if different:
            raise InputError(
                f"{str(self.part)!r} is of another run, which cannot be gone on with: {'; '.join(map(quoted, different[:3]))}"
            )
        for line in lines[1:]:
            self.committed = merged(self.committed, line)
        if not all(type(self.committed[k]) is int and self.committed[k] >= 0 for k in ("bytes", "rows")):
            raise ValueError("its numbers of bytes and rows are none")
        self.rows = self.committed["rows"]
        size = os.fstat(self._file.fileno()).st_size
        if size < self.committed["bytes"]:
            raise InputError(
                f"{str(self.part)!r} is shorter ({size} bytes) than its journal says ({quoted(self.committed['bytes'], 20)}): it was changed; "
                "delete both and begin anew"
            )
        self._file.truncate(self.committed["bytes"])
        self._file.seek(0, os.SEEK_END)
        self._write_journal([{"run": self._run}, self.committed])

    def write(self, table: Table) -> None:
        """Append rows."""
        if not len(table):
            return
        block = self._form.block(table, self._schema)
        self.rows += len(table)
        try:
            self._file.write(block)
        except OSError as error:
            raise self._refused(error) from None

    def commit(self, state: Mapping[str, Any]) -> None:
        """Make all rows so far durable, and note `state` with them; "merged" of it is merged with what earlier ones said."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            line = {"bytes": self._file.tell(), "rows": self.rows, **state}
            text = journal_line(line)
            with self._journal_path.open("ab") as journal:
                journal.write(text)
                journal.flush()
                os.fsync(journal.fileno())
        except OSError as error:
            raise self._refused(error) from None
        self.committed = merged(self.committed, line)
        self._journal_bytes += len(text)
        if self._journal_bytes > _COMPACT_BYTES and self._journal_bytes > 4 * self._compact_bytes:
            self._write_journal([{"run": self._run}, self.committed])

    def sha256(self) -> str:
        """Digest of the rows so far: what a file that is a copy of them has."""
        try:
            self._file.flush()
            return file_sha256(self.part)
        except OSError as error:
            raise self._refused(error) from None

    def publish(self) -> None:
        """Make the target of the rows so far; the part stays."""
        try:
            self._file.flush()
            with replacing(self.target, locked=True) as temporary:
                self._form.finish(self.part, temporary)
        except OSError as error:
            raise self._refused(error) from None
        except OutputError as error:
            raise OutputError(f"{error}: {self.kept()}") from None

    def finish(self) -> None:
        """Make the target, and remove the part and its journal."""
        self.publish()
        self.discard()

    def discard(self) -> None:
        """Remove the part and its journal."""
        self.close()
        # the journal first: a part without one is begun anew, a journal without its part would be a riddle
        for path in (self._journal_path, self.part):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave everything as it is for a later run."""
        with contextlib.suppress(OSError):  # bytes behind the last commit that the disk had no room for
            self._file.close()

    def kept(self) -> str:
        """The clause that says what is safe."""
        if not self.part.exists():  # with its folder, say: what is still open has no name
            return f"{str(self.part)!r} with the rows so far is gone, too"
        if self._once and not self.committed:
            return f"what could be written is in {str(self.part)!r}"
        rows = self.committed.get("rows", 0)
        said = f"{_counted(rows)} {'is' if rows == 1 else 'are'} kept in {str(self.part)!r}"
        return said if self._once else f"{said}; --resume goes on from there"

    def _refused(self, error: OSError) -> OutputError:
        said = "the disk is full" if error.errno in _FULL else (error.strerror or str(error))
        clause = f"; {self.kept()}" if self.committed or (self._once and self.rows) else ""
        return OutputError(f"cannot write {str(self.target)!r}: {said}{clause}")

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(f"another process is writing {str(self.part)!r}") from None

    def _read_journal(self) -> list[dict[str, Any]]:
        """Its whole lines; a last one that was cut off is as if it had not been written. InputError if another is damaged."""
        try:
            data = self._journal_path.read_bytes()
        except FileNotFoundError:
            return []
        texts = data.split(b"\n")[:-1]
        lines = []
        for number, text in enumerate(texts):
            said = text.partition(b" ")[2]
            whole = journal_text(said) == text + b"\n"
            if not whole and 0 < number == len(texts) - 1:
                break
            line = json.loads(said) if whole else None
            if not isinstance(line, dict) or not isinstance(line.get("merged", {}), dict):
                raise self._damaged(f"its line {number + 1} is not what was written")
            lines.append(line)
        if not lines or "run" not in lines[0]:
            raise self._damaged("it does not begin with a run")
        return lines

    def _write_journal(self, lines: list[dict[str, Any]]) -> None:
        data = b"".join(journal_line(line) for line in lines)
        with replacing(self._journal_path, locked=True) as temporary, temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._journal_bytes = self._compact_bytes = len(data)


def merged(before: Mapping[str, Any], line: Mapping[str, Any]) -> dict[str, Any]:
    """What two commits say together: the later, but dictionaries under "merged" are joined, key by key."""
    joined = {
        name: {**before.get("merged", {}).get(name, {}), **changes} for name, changes in line.get("merged", {}).items()
    }
    return {**before, **line, "merged": {**before.get("merged", {}), **joined}}


def differences(was: Any, now: Any, name: str = "") -> list[str]:
    """Where two runs' descriptions differ, in words."""
    if isinstance(was, dict) and isinstance(now, dict):
        return [
            d for k in dict.fromkeys((*was, *now)) for d in differences(was.get(k), now.get(k), f"{name} {k}".strip())
        ]
    if isinstance(was, list) and isinstance(now, list) and was != now:
        if len(was) != len(now):
            return [f"{name}: {len(was)} then, {len(now)} now"]
        return [d for k, (a, b) in enumerate(zip(was, now, strict=True)) for d in differences(a, b, f"{name} {k}")]
    return [] if was == now else [f"{name} was {_short(was)}, is {_short(now)}"]


def _counted(rows: Any) -> str:
    return "1 row" if rows == 1 else f"{quoted(rows, 20)} rows"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
