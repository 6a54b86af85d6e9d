"""Every benchmark by one command: `python -m benchmarks [NAME …]`. Figures are ratios within one run."""

import asyncio
import inspect
import sys
from importlib import import_module
from pathlib import Path


def main() -> None:
    """Run the named benchmarks, or all."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    wanted = sys.argv[1:] or known
    for name in wanted:
        if name not in known:
            sys.exit(f"no benchmark {name}; there are {', '.join(known)}")
        module = import_module(f"benchmarks.{name}")
        print(f"\n{name}: {(module.__doc__ or '').strip().splitlines()[0]}")
        sys.argv = [name]  # its own options are at their defaults
        try:
            result = module.main()
            if inspect.iscoroutine(result):
                asyncio.run(result)
        except SystemExit as missing:  # a tool is not installed: say so, go on with the others
            print(f"  not run: {missing}")


if __name__ == "__main__":
    main()
