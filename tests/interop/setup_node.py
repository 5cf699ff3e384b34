"""Install the npm packages the interop tests talk to: exactly those of package-lock.json, and only when it changed.

Without Node it says so and lets `make test` go on (those tests are skipped), unless CI=true, where nothing may be skipped.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
STAMP = HERE / "node_modules" / ".installed-lock"
MIN_NODE = 18
MIN_ENGINE_NODE = 20
"""For llama.cpp; everything else runs with the Node of Debian 12."""
GET_NODE = f"Get Node {MIN_NODE} or newer with npm: nodejs.org, or apt install nodejs npm, brew install node, winget install OpenJS.NodeJS"


def lock_digest() -> str:
    """Changes whenever something else should be installed."""
    return hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()


def is_installed() -> bool:
    """Whether node_modules is what package-lock.json says."""
    return STAMP.is_file() and STAMP.read_text(encoding="ascii") == lock_digest()


def missing(min_node: int = MIN_NODE) -> str | None:
    """What the interop tests lack, in a sentence; None when nothing."""
    node = shutil.which("node")
    if node is None:
        return f"Node is not installed. {GET_NODE}"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    if not version.startswith("v") or int(version[1:].split(".")[0]) < min_node:
        return f"Node is {version or 'broken'}, not {min_node} or newer. {GET_NODE}"
    if not is_installed() and shutil.which("npm") is None:
        return f"npm is not installed. {GET_NODE}"
    return None


def install() -> str | None:
    """Run npm; what went wrong, or None."""
    npm = shutil.which("npm")
    assert npm is not None, "checked by missing()"
    done = subprocess.run([npm, "ci", "--ignore-scripts"], cwd=HERE, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"npm ci failed in tests/interop:\n{done.stdout}{done.stderr}"
    STAMP.write_text(lock_digest(), encoding="ascii")
    return None


def main() -> int:
    """The exit code for make."""
    problem = missing()
    if problem is None and not is_installed():
        problem = install()
    if problem is None:
        return 0
    in_ci = os.environ.get("CI") == "true"
    outcome = "CI=true, so this is an error." if in_ci else "The interop tests will be skipped."
    print(f"{problem}\n{outcome}", file=sys.stderr)
    return 1 if in_ci else 0


if __name__ == "__main__":
    sys.exit(main())
