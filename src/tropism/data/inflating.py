"""The bytes of a file, decompressed where its name says so, within limits, and hashed as they pass.

A compressed file may expand 250-fold beyond its first 64 MiB and no further, and a decoder may take 128 MiB, so that a
file made to fill the memory is refused long before it does. Left out: zip, zstd and bzip2.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import lzma
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tropism.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FREE_BYTES = 64 << 20
"""Decompressed bytes that nobody asks about."""
MOST_EXPANSION = 250
"""Decompressed bytes for each stored one beyond ``FREE_BYTES``. Text reaches 30; zeros reach 1000 with gzip."""
DECODER_BYTES = 128 << 20
"""What an xz decoder may take; ``xz -9`` needs 65 MiB, and a header may ask for 4 GiB."""
_BLOCK = 1 << 16
_MAGIC = {".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\0"}


class FileBytes(io.RawIOBase):
    """A file's bytes, decompressed. ``finish`` reads what is left on the disk; then ``sha256`` and ``size`` are final.

    Both are of the file as it is stored. Errors: DataError (unreadable, cut off, damaged, not what its name says, or
    beyond the limits above).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._hash = hashlib.sha256()
        self._given = 0
        self._codec = path.suffix.lower() if path.suffix.lower() in _MAGIC else ""
        self._decoder: zlib._Decompress | lzma.LZMADecompressor | None = None
        self._members = 0
        self._pending = b""
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}", "give a readable file") from error
        self._check_name()
        self.buffer: io.BufferedReader[Any] = io.BufferedReader(self, 1 << 20)
        """For whoever reads lines. It is kept here because a buffer that is forgotten closes its file."""

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill the buffer with decompressed bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")
        data = self._inflate(len(view)) if self._codec else self._stored(len(view))
        view[: len(data)] = data
        return len(data)

    def finish(self) -> None:
        """Read to the end of the stored bytes, without decompressing them, and close."""
        while self._stored(1 << 20):
            pass
        self.close()

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._file.close()
        super().close()

    @property
    def sha256(self) -> str:
        """Of the stored bytes read so far."""
        return self._hash.hexdigest()

    def _check_name(self) -> None:
        """The name says whether the file is compressed: one that lies is refused, not guessed at."""
        head = self._stored(6)
        self._file.seek(0)
        self._hash, self.size = hashlib.sha256(), 0
        for suffix, magic in _MAGIC.items():
            if head.startswith(magic) and suffix != self._codec:
                self.close()
                raise DataError(
                    f"{self.path} is compressed ({suffix[1:]}), which its name does not say", f"add {suffix} to it"
                )
        if self._codec and not head.startswith(_MAGIC[self._codec]):
            self.close()
            what = f"begins with {head[:4]!r}" if head else "is empty"
            raise DataError(f"{self.path} is no {self._codec[1:]} file: it {what}", "give it the suffix of its content")

    def _stored(self, count: int) -> bytes:
        try:
            data = self._file.read(count) or b""
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}", "give a readable file") from error
        self._hash.update(data)
        self.size += len(data)
        return data

    def _inflate(self, count: int) -> bytes:
        """Up to ``count`` decompressed bytes over any number of members; empty only at a clean end."""
        while True:
            if self._decoder is None:
                self._pending = self._pending.lstrip(b"\0") if self._members else self._pending
                self._pending = self._pending or self._stored(_BLOCK)
                if not self._pending:
                    return b""
                if self._members and not self._pending.strip(b"\0"):
                    continue  # padding after a member, which tar and block devices leave
                self._decoder = (
                    zlib.decompressobj(wbits=31)
                    if self._codec == ".gz"
                    else lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=DECODER_BYTES)
                )
            try:
                data, starved = self._step(self._decoder, count)
            except (zlib.error, lzma.LZMAError) as error:
                raise DataError(
                    f"{self.path} cannot be decompressed: {error}", "fetch the file again, or decompress it yourself"
                ) from error
            if self._decoder.eof:
                self._pending, self._decoder = self._decoder.unused_data, None
                self._members += 1
            if data:
                self._given += len(data)
                self._check_expansion()
                return data
            if starved and self._decoder is not None:
                raise DataError(f"{self.path} is cut off in the middle of its compressed data", "fetch it again")

    def _step(self, decoder: zlib._Decompress | lzma.LZMADecompressor, count: int) -> tuple[bytes, bool]:
        """One call of the decoder: its output, and whether the file had no more bytes to give it."""
        if isinstance(decoder, lzma.LZMADecompressor):
            feed = b"" if not decoder.needs_input else self._pending or self._stored(_BLOCK)
            starved = decoder.needs_input and not feed
            self._pending = b"" if decoder.needs_input else self._pending
            return (b"" if starved else decoder.decompress(feed, count)), starved
        feed = decoder.unconsumed_tail or self._pending or self._stored(_BLOCK)
        self._pending = b"" if not decoder.unconsumed_tail else self._pending
        return decoder.decompress(feed, count), not feed

    def _check_expansion(self) -> None:
        if self._given > FREE_BYTES and self._given > MOST_EXPANSION * self.size:
            raise DataError(
                f"{self.path} expands more than {MOST_EXPANSION}-fold ({self.size} bytes to {self._given} so far)",
                "if you trust it, decompress it and give the result",
            )


class FromUtf16(io.RawIOBase):
    """UTF-16 bytes, byte order mark included, as UTF-8 bytes.

    A lone surrogate comes out as bytes that are no valid UTF-8, so that its line alone is refused.
    """

    def __init__(self, source: io.BufferedReader[Any], path: Path) -> None:
        self._source = source
        self._path = path
        self._decoder = codecs.getincrementaldecoder("utf-16")(errors="surrogatepass")
        self._left = b""
        self._ended = False

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill the buffer; 0 at the end. Errors: DataError where the file ends inside a character."""
        view = memoryview(buffer).cast("B")
        while not self._left and not self._ended:
            data = self._source.read(_BLOCK)
            self._ended = not data
            try:
                text = self._decoder.decode(data, final=self._ended)
            except UnicodeDecodeError as error:
                raise DataError(f"{self._path} is broken UTF-16: {error.reason}", "save it as UTF-8") from error
            self._left = text.encode("utf-8", errors="surrogatepass")
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
