"""Detached signatures of a certificate by OpenSSH (`ssh-keygen -Y`): keys that users have, checked without this package.

    ssh-keygen -Y check-novalidate -n llm-unlearn -s unlearning.json.sig < unlearning.json

Format: https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from llm_unlearn.errors import DataError, MissingExtra

NAMESPACE = "llm-unlearn"  # a signature given for another purpose does not count
ENDING = ".sig"
WHO = "signer"


def sign(file: Path, key: Path) -> Path:
    """Write file.sig with a private key (or a public one that ssh-agent holds) and return its path; raise DataError where
    ssh-keygen refuses."""
    if not key.expanduser().is_file():
        raise DataError(f"there is no key {key}: make one with ssh-keygen -t ed25519, or name another file.")
    target = file.with_name(file.name + ENDING)
    target.unlink(missing_ok=True)  # ssh-keygen would ask before it overwrites
    done = _keygen("sign", "-f", str(key.expanduser()), "-n", NAMESPACE, str(file))
    if done.returncode:
        raise DataError(f"{file.name} could not be signed: {_said(done)}.")
    return target


def signed_by(file: Path) -> str | None:
    """Return the fingerprint of the key that signed file.sig, whoever that is; None where the signature is not the file's."""
    with file.open("rb") as content:
        done = _keygen("check-novalidate", "-n", NAMESPACE, "-s", f"{file}{ENDING}", stdin=content)
    found = re.search(r"SHA256:\S+", done.stdout.decode())
    return found[0] if done.returncode == 0 and found else None


def is_by(file: Path, public_key: Path) -> bool:
    """Return whether file.sig is the file's and by this public key; raise DataError where the key cannot be read."""
    if not public_key.expanduser().is_file():
        raise DataError(f"there is no public key {public_key}.")
    words = public_key.expanduser().read_text(encoding="utf-8").split()
    if len(words) < 2 or not words[0].startswith(("ssh-", "ecdsa-", "sk-")):
        raise DataError(f"{public_key} is no OpenSSH public key (one line: ssh-ed25519 AAAA...).")
    with tempfile.NamedTemporaryFile("w", suffix=".signers") as allowed, file.open("rb") as content:
        allowed.write(f"{WHO} {words[0]} {words[1]}\n")
        allowed.flush()
        options = ["-I", WHO, "-n", NAMESPACE, "-s", f"{file}{ENDING}"]
        return _keygen("verify", "-f", allowed.name, *options, stdin=content).returncode == 0


def _keygen(*words: str, stdin: object = subprocess.DEVNULL) -> "subprocess.CompletedProcess[bytes]":
    program = shutil.which("ssh-keygen")
    if program is None:
        raise MissingExtra(
            "signatures need OpenSSH's ssh-keygen (8.1 or newer); install your system's openssh client."
        )
    return subprocess.run([program, "-Y", *words], stdin=stdin, capture_output=True, check=False)  # type: ignore[call-overload]


def _said(done: "subprocess.CompletedProcess[bytes]") -> str:
    return " ".join(done.stderr.decode(errors="replace").split())[:200].rstrip(".") or "ssh-keygen refused"
