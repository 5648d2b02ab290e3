"""What of a room's lists is delivered: lines that are being erased, or are too old for the target, stay here."""

from __future__ import annotations

from archive.manifest import gap_in, read_manifest, record_in
from archive.names import GAPS, MANIFEST, TEXTS
from archive.texts import entry_in, file_in, text_in
from archive.tombstones import is_being_erased, open_erasures
from core.records import GapRecord, SegmentRecord
from delivery.items import ListsItem, file_bytes


def lines_to_deliver(item: ListsItem, file: str) -> bytes:
    """The lines of one of the lists, without those that are being erased or are too old for the target. Blocks.

    Raises:
        Unusable, StorageError: it cannot be read.
        OSError: another list cannot be read.
    """
    size = {MANIFEST: item.manifest_bytes, TEXTS: item.texts_bytes, GAPS: item.gaps_bytes}[file]
    if not size:
        return b""
    content = complete_lines(file_bytes(item.folder / file)[:size])
    if not open_erasures(item.folder.parent) and item.expired_before is None:
        return content
    return b"".join(_without_those_to_go(item, file, whole_lines(content)))


def _without_those_to_go(item: ListsItem, file: str, lines: list[bytes]) -> list[bytes]:
    def is_to_go(one: SegmentRecord | GapRecord) -> bool:
        return _is_expired(item, one) or is_being_erased(item.folder, one)

    if file == MANIFEST:
        return [line for line in lines if (record := record_in(line)) is None or not is_to_go(record)]
    if file == GAPS:
        return [line for line in lines if (gap := gap_in(line)) is None or not is_to_go(gap)]
    gone = {record.file for record in read_manifest(item.folder) if is_to_go(record)}
    return [line for line in lines if not _is_text_of(line, item, gone)]


def _is_expired(item: ListsItem, one: SegmentRecord | GapRecord) -> bool:
    return item.expired_before is not None and one.end < item.expired_before


def _is_text_of(line: bytes, item: ListsItem, gone: set[str]) -> bool:
    """Whether a line of the list of texts is about one of these WAVs, or about a segment that is being erased."""
    entry, text = entry_in(line), text_in(line)
    if entry is not None and file_in(entry) in gone:
        return True
    return text is not None and is_being_erased(item.folder, text)


def whole_lines(data: bytes) -> list[bytes]:
    """The complete lines of a list, without an incomplete last one."""
    return complete_lines(data).splitlines(keepends=True)


def complete_lines(data: bytes) -> bytes:
    """The same in one piece."""
    return data[: data.rfind(b"\n") + 1]
