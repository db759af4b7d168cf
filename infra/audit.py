"""Ask whether any pinned package has a known vulnerability: `python -m infra.audit`.

Exit status 1 if one has. Where nobody can be asked, it says that nothing was audited.
"""

import json
import subprocess
import sys

LOCK = "requirements.lock"


def main() -> int:
    """Audit the lock file."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", LOCK, "--require-hashes", "--disable-pip"]
    command += ["--progress-spinner", "off", "--timeout", "10", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        words = done.stderr.strip().splitlines() or ["it left no message"]
        sys.stdout.write(f"{LOCK} was not audited: {words[-1][:200]}\n")
        return 0
    audited = [one for one in found if "vulns" in one]
    if not audited:
        sys.stdout.write(
            f"{LOCK} was not audited: the database of vulnerabilities cannot be reached from here\n"
        )
        return 0
    weak = [(one, each) for one in audited for each in one["vulns"]]
    for one, each in weak:
        mended = ", ".join(each["fix_versions"]) or "no version yet"
        sys.stdout.write(f"{one['name']} {one['version']}: {each['id']}, mended in {mended}\n")
    sys.stdout.write(f"{len(audited)} of {len(found)} packages audited, {len(weak)} known vulnerabilities\n")
    return bool(weak)


if __name__ == "__main__":
    sys.exit(main())
