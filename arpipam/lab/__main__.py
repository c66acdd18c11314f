"""`python -m arpipam.lab clean`: removes what killed labs left."""

from __future__ import annotations

import sys

from arpipam.lab import cleanup


def main(words: list[str]) -> int:
    """Run the command; the exit status."""
    if words != ["clean"]:
        print("usage: python -m arpipam.lab clean", file=sys.stderr)  # noqa: T201 - the usage
        return 2
    for lab in cleanup.clean():
        print(f"removed {lab}")  # noqa: T201 - what was done
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
