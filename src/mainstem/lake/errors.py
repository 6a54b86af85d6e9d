"""What can go wrong between us and the files.

LakeError
├── StoreUnavailable   the folder or bucket failed; the archiver backs off and tries again
├── ArchiveDamaged     a file is not what was written; the text names it
└── PlanBroken         a plan can't be carried out as it was noted (the log gave other bytes)
"""

from mainstem.errors import MainstemError


class LakeError(MainstemError):
    """The lake failed."""


class StoreUnavailable(LakeError):
    """The folder or bucket could not be read or written; nothing half-written is visible."""


class ArchiveDamaged(LakeError):
    """A file of the archive is not what was written.

    Attributes:
        name: the file, inside the store.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"archive file {name} is damaged: {why}")
        self.name = name


class PlanBroken(LakeError):
    """The log no longer gives the bytes that were planned; the text names the partition and offsets."""
