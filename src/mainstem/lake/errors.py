"""What can go wrong between us and the files.

BulkError
└── LakeError
    ├── StoreUnavailable   the folder or bucket failed; the gatherer backs off and tries again
    └── ArchiveDamaged     a file is not what was written; the text names it
"""

from mainstem.bulk.errors import BulkError


class LakeError(BulkError):
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
