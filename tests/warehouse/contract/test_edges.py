"""What every engine must do at the edges, by `mainstem.testing.warehouse`: on all of ours."""

from mainstem.testing.warehouse.edges import Edges


class TestEdges(Edges):
    """On the fixture `bench` of `conftest.py`."""
