"""The Python sandbox process: `python -s -P -m mainstem.transformations.sandbox.python.host FD`.

runtime -> **host** -> program -> the user's function. `sandbox.child` owns the order of things: everything is
imported, then the jail closes, then the code is compiled and run. Every process holds one transformation version
with its own credentials, and nothing else of ours.

Its environment is `PYTHONHASHSEED=0` and `TZ=UTC`, so that sets have one order and times one zone in all processes.
(`-I` would ignore the first; with no other variable there is nothing else that it would be for.)

The code can reach this module's objects through frames. That is no breach: it holds nothing that the code isn't told
anyway, and what it can do to the process is bounded by the kernel. What it can fake are its own results.
"""

import gc

from mainstem.transformations.sandbox import child
from mainstem.transformations.sandbox.python import imports
from mainstem.transformations.sandbox.python.deadline import Deadline
from mainstem.transformations.sandbox.python.program import Program
from mainstem.transformations.sandbox.python.seeded import Surroundings
from mainstem.transformations.sandbox.wire import Load


class PythonHost:
    """CPython as it is, with its modules imported beforehand."""

    syscalls: tuple[str, ...] = ("setitimer",)
    """For the deadline inside."""
    executable_memory = False
    spare_bytes = 0

    def __init__(self) -> None:
        self._deadline = Deadline()

    def warm(self, load: Load) -> None:
        """Import all that code may import."""
        imports.warm()

    def start(self, load: Load) -> None:
        """Do nothing: there is one thread."""

    def load(self, load: Load) -> child.Program:
        """Compile the code and run what stands outside of its functions.

        Raises:
            CodeWrong: it can't be used.
        """
        surroundings = Surroundings(seeded=load.seeded)
        surroundings.reach_others()
        # What is there for good is looked at no more.
        gc.collect()
        gc.freeze()
        return Program(load, self._deadline, surroundings)


if __name__ == "__main__":
    child.main(PythonHost())
