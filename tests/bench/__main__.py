"""`python -m tests.bench [ROW=C1]`: each row in its own process; prints the table and writes bench.json."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.harness import machine, measure, to_json
from tests.bench.rows import ROWS, make


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--one"]:
        return _one(arguments[1])
    wanted = [argument.removeprefix("ROW=") for argument in arguments] or list(ROWS)
    if unknown := set(wanted) - set(ROWS):
        print(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}", file=sys.stderr)
        return 2
    host = machine()
    print(", ".join(f"{name} {value}" for name, value in host.items()))
    results: list[dict[str, Any]] = []
    failed = [row for row in wanted if not _in_process(row, results)]
    Path("bench.json").write_text(json.dumps({"format": 1, "machine": host, "rows": results}, indent=1) + "\n")
    for row in failed:
        print(f"{row:<4} FAILED: see above", file=sys.stderr)
    return 1 if failed else 0


def _in_process(row: str, results: list[dict[str, Any]]) -> bool:
    command = [sys.executable, "-m", "tests.bench", "--one", row]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        *lines, last = done.stdout.splitlines()
        print("\n".join(lines), flush=True)
        results += json.loads(last)
    return done.returncode == 0


def _one(row_id: str) -> int:
    with make(row_id) as row:
        results = measure(row)
    for result in results:
        print(result.line())
    print(to_json(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
