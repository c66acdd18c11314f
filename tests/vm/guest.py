"""Runs inside a virtual machine: takes commands from its second serial port and answers with what they printed."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tty

PORT = "/dev/ttyS1"


def main() -> None:
    """One line of JSON is one command; one line is its answer."""
    descriptor = os.open(PORT, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(descriptor)
    with os.fdopen(descriptor, "rb", buffering=0) as port:
        for line in iter(lambda: _line(port), b""):
            try:
                wanted = json.loads(line)
            except ValueError:  # what was sent before anybody listened
                continue
            answer: dict[str, object] = {"answers": wanted["id"]}
            if not wanted["words"]:
                answer["ready"] = True
            else:
                done = subprocess.run(
                    wanted["words"],
                    check=False,
                    capture_output=True,
                    input=base64.b64decode(wanted["input"]),
                    env=os.environ | wanted["env"],
                )
                answer |= {
                    "status": done.returncode,
                    "output": base64.b64encode(done.stdout).decode(),
                    "error": base64.b64encode(done.stderr).decode(),
                }
            data = json.dumps(answer).encode() + b"\n"
            while data:
                data = data[os.write(descriptor, data) :]


def _line(port: object) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += port.read(4096)  # type: ignore[attr-defined]
    return line


if __name__ == "__main__":
    main()
