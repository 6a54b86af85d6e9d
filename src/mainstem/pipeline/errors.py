"""
MainstemError
└── PipelineError
    ├── ExpressionInvalid     a CEL expression does not compile; says where
    └── PlanInvalid           a destination's plan can't be made from the snapshot; the others go on
"""

from mainstem.errors import MainstemError


class PipelineError(MainstemError):
    """The pipeline can't be set up."""


class ExpressionInvalid(PipelineError):
    """A CEL expression does not compile.

    Attributes:
        source: the expression.
        line, column: where, from 1.
        problem: what is wrong there.
    """

    def __init__(self, source: str, line: int, column: int, problem: str) -> None:
        super().__init__(f"line {line}, column {column}: {problem}, in: {source}")
        self.source = source
        self.line = line
        self.column = column
        self.problem = problem


class PlanInvalid(PipelineError):
    """A destination's plan can't be made: its settings or one of its filters are wrong.

    Attributes:
        destination_id: whose.
        problem: what is wrong and where.
    """

    def __init__(self, destination_id: str, problem: str) -> None:
        super().__init__(f"destination {destination_id}: {problem}")
        self.destination_id = destination_id
        self.problem = problem
