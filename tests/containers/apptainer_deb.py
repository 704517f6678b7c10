"""Debian 12 has no package of apptainer: `python3 apptainer_deb.py FOLDER` makes one of the newest Debian's.

That package asks for glibc 2.38 only because C23 gave strtol and its family new names there (`__isoc23_strtol`, at
version GLIBC_2.38). The programs are pointed to the old names, which differ in binary literals (0b1) alone. Standard
library only: it runs before anything is installed.
"""

import hashlib
import lzma
import re
import struct
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NEW, OLD = "GLIBC_2.38", "GLIBC_2.2.5"
PREFIX = "__isoc23_"
PROGRAMS = (
    "usr/bin/apptainer",
    "usr/lib/x86_64-linux-gnu/apptainer/bin/starter",
    "usr/lib/x86_64-linux-gnu/apptainer/lib/offsetpreload.so",
)

_DYNSYM, _VERNEED, _VERSYM = 11, 0x6FFFFFFE, 0x6FFFFFFF
"""Types of ELF sections: symbols of the dynamic linker, versions that are needed, version of each symbol."""


@dataclass(frozen=True)
class Section:
    """One row of an ELF's table of sections: where it lies, which other one it names, how many entries it says."""

    offset: int
    size: int
    link: int
    info: int


@dataclass(frozen=True)
class Version:
    """A version that is needed: of which library, under which number symbols name it, and where that is written."""

    library: str
    name: str
    index: int
    offset: int
    name_offset: int


class Elf:
    """The dynamic symbols of a 64-bit little-endian program, changed in place."""

    def __init__(self, data: bytearray) -> None:
        assert data[:6] == b"\x7fELF\x02\x01", "not a 64-bit little-endian program"
        self.data = data
        table, size, count = self._at("<Q", 0x28)[0], *self._at("<HH", 0x3A)
        rows = [self._at("<IIQQQQII", table + i * size) for i in range(count)]
        self.sections = [Section(row[4], row[5], row[6], row[7]) for row in rows]
        self.by_type = {row[1]: section for row, section in zip(rows, self.sections, strict=True)}
        self.names = self.sections[self.by_type[_DYNSYM].link].offset

    def _at(self, form: str, offset: int) -> tuple[int, ...]:
        return struct.unpack_from(form, self.data, offset)

    def text(self, offset: int) -> str:
        start = self.names + offset
        return self.data[start : self.data.index(0, start)].decode()

    def versions(self) -> Iterator[Version]:
        """Every version of every library that the program needs."""
        section = self.by_type[_VERNEED]
        library = section.offset
        for _ in range(section.info):
            _, count, file, first, following = self._at("<HHIII", library)
            entry = library + first
            for _ in range(count):
                _, _, index, name, step = self._at("<IHHII", entry)
                yield Version(self.text(file), self.text(name), index, entry, name)
                entry += step
            library += following

    def use_old_names(self) -> list[str]:
        """Point the symbols of C23 to the names they had before; returns those names."""
        versions = list(self.versions())
        new = next((version for version in versions if version.name == NEW), None)
        if new is None:
            return []
        old = next(version for version in versions if (version.library, version.name) == (new.library, OLD))
        changed = [self._rename(i, old) for i in self._symbols_of(new)]
        # Nothing uses the new version any more, but the linker would still insist on it.
        struct.pack_into("<I", self.data, new.offset, _hash(OLD))
        struct.pack_into("<I", self.data, new.offset + 8, old.name_offset)
        return changed

    def _symbols_of(self, version: Version) -> list[int]:
        count, versym = self.by_type[_DYNSYM].size // 24, self.by_type[_VERSYM].offset
        return [i for i in range(count) if self._at("<H", versym + 2 * i)[0] & 0x7FFF == version.index]

    def _rename(self, symbol: int, old: Version) -> str:
        entry = self.by_type[_DYNSYM].offset + 24 * symbol
        (name,) = self._at("<I", entry)
        text = self.text(name)
        assert text.startswith(f"{PREFIX}strto"), f"{text} is new in {NEW}, not renamed"
        # The old name is the end of the new one, so that no table grows.
        struct.pack_into("<I", self.data, entry, name + len(PREFIX))
        struct.pack_into("<H", self.data, self.by_type[_VERSYM].offset + 2 * symbol, old.index)
        return text.removeprefix(PREFIX)


def _hash(text: str) -> int:
    """The hash of a version's name, as the System V ABI has it."""
    value = 0
    for byte in text.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high & 0xFFFFFFFF
    return value


def mirror() -> str:
    """The mirror that this machine is set up for."""
    for path in [*sorted(Path("/etc/apt").rglob("*.sources")), Path("/etc/apt/sources.list")]:
        found = re.search(r"^(?:URIs:|deb(?: \[.*?\])?)\s+(\S+)", path.read_text(), re.M) if path.exists() else None
        if found:
            return found[1].rstrip("/")
    raise SystemExit("no mirror in /etc/apt")


def download(folder: Path) -> tuple[Path, str]:
    """The newest Debian's package and its version, checked by its sha256."""
    root = mirror()
    listed = lzma.decompress(fetch(f"{root}/dists/sid/main/binary-amd64/Packages.xz")).decode()
    stanza = re.search(r"^Package: apptainer\n(?:.+\n)+", listed, re.M)
    assert stanza, "the mirror has no apptainer"
    fields = dict(line.split(": ", 1) for line in stanza[0].splitlines() if ": " in line)
    data = fetch(f"{root}/{fields['Filename']}")
    assert hashlib.sha256(data).hexdigest() == fields["SHA256"], "the package is not the one that the mirror lists"
    path = folder / "newest.deb"
    path.write_bytes(data)
    return path, fields["Version"]


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=120) as answer:
        return bytes(answer.read())


def main(folder: Path) -> Path:
    """Download, change and pack again; returns the package, whose path the script prints."""
    folder.mkdir(parents=True, exist_ok=True)
    source, version = download(folder)
    tree, made = folder / "tree", folder / "apptainer.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", source, tree], check=True)
    for name in PROGRAMS:
        elf = Elf(bytearray((tree / name).read_bytes()))
        elf.use_old_names()
        with (tree / name).open("r+b") as file:
            file.write(elf.data)
    control = tree / "DEBIAN" / "control"
    text = control.read_text().replace("libc6 (>= 2.38)", "libc6 (>= 2.36)")
    control.write_text(re.sub(r"^Version: .*", f"Version: {version}~bookworm1", text, flags=re.M))
    (tree / "DEBIAN" / "md5sums").unlink(missing_ok=True)
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, made], check=True, stdout=2)
    return made


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
