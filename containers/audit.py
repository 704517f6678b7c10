"""`make audit`: look the packages of both lock files up in the database of known weaknesses that pip-audit asks.

Standard library only; pip-audit gets a Python of its own in the folder named. Exit status 1: a weakness is known. 3:
nothing, or not everything, could be looked up from here.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


class UnansweredError(Exception):
    """Why nothing is known."""


def program(folder: Path) -> Path:
    """pip-audit in an environment of its own. Raises UnansweredError if it cannot be fetched."""
    found = folder / "bin" / "pip-audit"
    if not found.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        words: list[str | Path] = [folder / "bin" / "python", "-m", "pip", "--quiet", "install", "pip-audit"]
        if subprocess.run(words, capture_output=True, check=False).returncode != 0:
            raise UnansweredError("pip-audit cannot be fetched from here")
    return found


def pins(lock: Path) -> str:
    """Names and versions; a database does not know the local tag of a build (2.13.0+cpu)."""
    lines = [line.split()[0] for line in lock.read_text().splitlines() if line and not line.startswith("#")]
    return "\n".join(re.sub(r"\+.*", "", line) for line in lines)


def answers(pip_audit: Path, lock: Path) -> list[dict[str, Any]]:
    """What is known of each package. Raises UnansweredError where pip-audit reaches no database."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(pins(lock))
        file.flush()
        options = ("--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json", "-r", file.name)
        words: list[str | Path] = [pip_audit, *options]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError):
        raise UnansweredError((done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1][:200]) from None


def main(folder: Path) -> int:
    """Print one line a weakness and one a lock file; returns the exit status."""
    status = 0
    for lock in sorted(Path(__file__).parent.glob("*.lock")):
        try:
            known = answers(program(folder), lock)
        except UnansweredError as error:
            print(f"audit: {lock.name} was NOT looked up: {error}", file=sys.stderr)
            return max(status, 3)
        skipped = [each["name"] for each in known if "skip_reason" in each]
        weak = [(each, vuln) for each in known for vuln in each.get("vulns", ())]
        for each, vuln in weak:
            print(f"{each['name']} {each['version']}: {vuln['id']}, fixed in {', '.join(vuln['fix_versions']) or '-'}")
        print(
            f"audit: {lock.name}: {len(known) - len(skipped)} of {len(known)} looked up, {len(weak)} weaknesses known"
        )
        if skipped:
            print(
                f"audit: NOT looked up, the database that answers here lacks them: {', '.join(skipped)}",
                file=sys.stderr,
            )
        status = 1 if weak else status or (3 if skipped else 0)
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
