"""How a table is changed, step by step: what loaders share, whether they speak SQL or not."""

from abc import ABC, abstractmethod

from mainstem.warehouse.loader import TableFailed
from mainstem.warehouse.schema import (
    AddColumns,
    Columns,
    ColumnType,
    CreateTable,
    SchemaChange,
    WidenColumn,
)
from mainstem.warehouse.values import EXACT


class Changes(ABC):
    """A loader that makes one change after the other; each is harmless if it was made before."""

    @abstractmethod
    def _create(self, table: str, columns: Columns) -> None:
        """Make a table. Somebody else may have made it meanwhile, with fewer columns: then the others are added."""

    @abstractmethod
    def _add(self, table: str, columns: Columns) -> None:
        """Add those of the columns that the table lacks."""

    def _widen(self, table: str, column: str, after: ColumnType) -> None:
        """Widen a column that is not wide enough yet, if every value in it survives.

        Raises:
            TableFailed: columns keep their types here.
        """
        raise TableFailed(table, f"column {column} can't be made {after} here")

    def _change(self, change: SchemaChange) -> None:
        match change:
            case CreateTable(table=table, columns=columns):
                self._create(table, columns)
            case AddColumns(table=table, columns=columns):
                self._add(table, columns)
            case WidenColumn(table=table, column=column, after=after):
                self._widen(table, column, after)


def rounded_sql(place: str, column: str) -> str:
    """Return SQL that finds something if a column has integers that a float may not have exactly.

    Args:
        place: the table, quoted.
        column: quoted.
    """
    return f"SELECT 1 FROM {place} WHERE {column} NOT BETWEEN {-EXACT} AND {EXACT} LIMIT 1"
