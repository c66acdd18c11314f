"""`make mutate`: breaks the pure rooms one break at a time, and fails where the tests of these rooms notice too few.

python -m tests.mutation [--jobs N] [names of mutants, such as 'arpipam.protocol.pool.*']
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mutmut.__main__ import cli
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files
from mutmut.utils.format_utils import orig_function_and_class_names_from_key

from tests.mutation import operators
from tests.mutation.report import Change, Mutant, change_in, problems, read_listed, summary

if TYPE_CHECKING:
    from collections.abc import Iterator

MUTANTS = Path("mutants")
"""Where mutmut works."""


def found() -> list[Mutant]:
    """Every mutant of the last run."""
    mutants = []
    for path in walk_mutatable_files():
        data = SourceFileMutationData(path=path)
        data.load()
        module = ".".join(path.with_suffix("").parts)
        for name, code in data.exit_code_by_key.items():
            status = status_by_exit_code[code]
            change = None
            if status not in {"killed", "timeout", "not checked"}:
                function, class_name = orig_function_and_class_names_from_key(name)
                where = ".".join(part for part in (module, class_name, function) if part)
                change = Change(where, change_in(get_diff_for_mutant(name, path=path)))
            mutants.append(Mutant(module, change, status))
    return mutants


@contextmanager
def stdout_in(log: Path) -> Iterator[None]:
    """Let all that is printed go to a file, by whatever object: mutmut draws its progress on `sys.__stdout__`."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def run(arguments: list[str]) -> None:
    """Let mutmut make its mutants and judge them. In a log its progress, drawn anew ten times a second, is no help."""
    if sys.stdout.isatty():
        cli(["run", *arguments], standalone_mode=False)
        return
    log = MUTANTS / "progress.log"
    log.parent.mkdir()
    try:
        with stdout_in(log):
            cli(["run", *arguments], standalone_mode=False)
    except SystemExit:  # it has said why
        print(log.read_bytes().decode().rpartition("\r")[2])  # as text, \r would become \n
        raise


def main() -> int:
    """Run, report, and judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description="Mutation tests of the pure rooms.")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at the same time")
    parser.add_argument("names", nargs="*", help="only these mutants; * stands for anything")
    options = parser.parse_args()
    shutil.rmtree(MUTANTS, ignore_errors=True)  # mutmut keeps verdicts though the tests have changed
    operators.install()
    run(["--max-children", str(options.jobs), *options.names])
    mutants = found()
    print(*summary(mutants), sep="\n")
    wrong = problems(mutants, read_listed())
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
