"""A real Debian 12 with a real init in a folder: apt, dpkg, systemd and HAProxy in it are the real ones.

It uses the network of this machine but cannot change it, and has its own files and processes. Creating one takes half a
minute; copies of it share its files and keep only what they change (overlayfs).
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import ClassVar

import pytest

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# One page of Docker's settings: its network is this machine's affair.
DOCKER = '{"iptables": false, "ip6tables": false, "ip-forward": false, "bridge": "none"}\n'


def needed():
    """Why such a machine cannot be had here, or None."""
    if os.geteuid() != 0:
        return "root is needed for a Debian with an init of its own"
    missing = [p for p in ("mmdebstrap", "systemd-nspawn", "nsenter") if not shutil.which(p)]
    return f"{', '.join(missing)} is not installed" if missing else None


def bootstrap(folder):
    """The smallest Debian 12 with an init, as a folder: no Python, no curl, no sysctl."""
    made = subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", "--include=systemd-sysv,dbus", "bookworm", folder],
        capture_output=True,
        text=True,
    )
    if made.returncode != 0:
        pytest.fail(f"mmdebstrap: {made.stderr[-2000:]}")
    (folder / "etc/docker").mkdir()
    (folder / "etc/docker/daemon.json").write_text(DOCKER)


class DebianRoot:
    """A copy of such a folder that can be booted. lower: the folders that it is laid over, the uppermost first."""

    made: ClassVar[list] = []

    def __init__(self, folder, lower, binds=()):
        self.folder, self.binds = folder, binds
        self.made.append(self)
        self.root, self.upper = folder / "root", folder / "upper"
        for part in (self.root, self.upper, folder / "work"):
            part.mkdir(parents=True)
        layers = f"lowerdir={':'.join(map(str, lower))},upperdir={self.upper},workdir={folder / 'work'},redirect_dir=on"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, self.root], check=True)
        self.container = self.init = None

    def boot(self):
        options = ["--quiet", "--register=no", "--keep-unit", "--console=pipe", f"--machine=test-{os.getpid()}"]
        options += [f"--bind-ro={path}" for path in self.binds]
        with (self.folder / "console").open("ab") as console:
            self.container = subprocess.Popen(
                ["systemd-nspawn", "--boot", *options, "--hostname=vm", f"--directory={self.root}"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        for _ in range(600):
            children = Path(f"/proc/{self.container.pid}/task/{self.container.pid}/children").read_text().split()
            self.init = int(children[0]) if children else None
            if self.init and self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded"):
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"no init: {(self.folder / 'console').read_text()[-2000:]}")
        # What a machine of its own could set, and a container may not.
        inotify = "mkdir -p /run/proc && mount -t proc proc /run/proc && mount --bind /run/proc/sys/fs/inotify /proc/sys/fs/inotify"
        assert self.run("sh", "-c", inotify).returncode == 0
        return self

    def start(self, *command, **environment):
        """Starts a command in it, as root in a session of its own."""
        inside = ["nsenter", f"--target={self.init}", "--all", "--root", "--wd", "--"]
        return subprocess.Popen(
            [
                *inside,
                "env",
                "--ignore-environment",
                f"PATH={PATH}",
                *(f"{k}={v}" for k, v in environment.items()),
                *command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *command, **environment):
        process = self.start(*command, **environment)
        out, err = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def cut_power(self):
        """Everything in it ends at once, in the middle of whatever it was doing."""
        if self.container:
            if self.init:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.init, signal.SIGKILL)
            try:
                self.container.wait(10)
            except subprocess.TimeoutExpired:  # seen once, in a Docker container: systemd-nspawn missed the end of init
                self.container.kill()
                self.container.wait()
        self.container = self.init = None

    def close(self):
        """From here on it is a layer for others."""
        self.cut_power()
        if os.path.ismount(self.root):
            subprocess.run(["umount", self.root], check=True)

    def remove(self):
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
