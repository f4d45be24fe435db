"""OpenSSH's sshd, for one user and one key: git's remotes over SSH, for real, and without a port.

Each connection of the client starts an sshd of its own, at the other end of a pipe (`ProxyCommand`). Whoever comes in
gets the environment that the test gives; so `git-lfs-authenticate`, which Git LFS asks over SSH for the address of its
server, is a program of the test's.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


def program() -> str | None:
    """Return the path of sshd, where it is installed."""
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True, slots=True)
class SshServer:
    """A server. `programs` comes first on the PATH of whoever comes in; `client` is what git's environment needs."""

    programs: Path
    client: Mapping[str, str]

    def url(self, path: Path) -> str:
        """Return git's address of a repository at `path`."""
        return f"ssh://sshd.invalid{path}"

    def install(self, name: str, script: str) -> None:
        """Put a program where whoever comes in finds it."""
        file = self.programs / name
        file.write_text(script)
        file.chmod(0o755)


def made(folder: Path, environment: Mapping[str, str]) -> SshServer:
    """Return a server with its keys below `folder`; commands that come in run in `environment`."""
    sshd = program()
    assert sshd is not None
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as root it wants this, which an init system makes
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for name in ("host", "client"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, capture_output=True)
    inside = {**environment, "PATH": f"{programs}{os.pathsep}{environment['PATH']}"}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in inside.items())
    come_in = folder / "come-in"
    come_in.write_text(f'#!/bin/sh\n{exports}exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
    come_in.chmod(0o755)
    (folder / "config").write_text(
        f"HostKey {folder / 'host'}\nAuthorizedKeysFile {folder / 'client.pub'}\nForceCommand {come_in}\n"
        "StrictModes no\nPasswordAuthentication no\nUsePAM no\nPidFile none\n"
    )
    options = {
        "ProxyCommand": shlex.join([sshd, "-i", "-f", str(folder / "config"), "-E", str(folder / "log")]),
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": str(folder / "known"),
        "IdentitiesOnly": "yes",
    }
    ssh = ["ssh", "-F", "none", "-q", "-i", str(folder / "client")]
    ssh += [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    return SshServer(programs, {"GIT_SSH_COMMAND": shlex.join(ssh), "GIT_SSH_VARIANT": "ssh"})
