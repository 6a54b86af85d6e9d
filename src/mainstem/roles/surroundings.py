"""What every flow of a process is made of."""

from pathlib import Path

import msgspec

from mainstem.clock import Clock
from mainstem.delivery.guard import AddressGuard
from mainstem.delivery.transport import Transport
from mainstem.errors import MainstemError
from mainstem.ledger.base import Ledger
from mainstem.pipeline.reading import SharedReader
from mainstem.pipeline.transform import Transformer
from mainstem.stream.base import Stream


class FlowRefused(MainstemError):
    """A destination can't run as it is configured; it keeps its place until that is repaired."""


class Surroundings(msgspec.Struct, frozen=True):
    """What every flow of a process is made of."""

    stream: Stream
    ledger: Ledger
    reader: SharedReader
    transformer: Transformer
    transport: Transport
    guard: AddressGuard
    clock: Clock
    data_dir: Path
