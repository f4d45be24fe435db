"""A standalone transfer agent of Git LFS that keeps objects in a folder, the first argument.

git-lfs's docs/custom-transfers.md: a line of JSON each way. It tells of its progress, as agents do. The second argument
is the object that it refuses, if any.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any


def tell(**event: Any) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main(folder: Path, refused: str) -> None:
    for line in sys.stdin:
        event = json.loads(line)
        if event["event"] == "init":
            tell()
        if event["event"] not in {"upload", "download"}:
            continue
        oid, size = event["oid"], event["size"]
        kept = folder / oid
        tell(event="progress", oid=oid, bytesSoFar=size, bytesSinceLast=size)
        if oid == refused or (event["event"] == "download" and not kept.exists()):
            tell(event="complete", oid=oid, error={"code": 2, "message": f"it does not take {oid}"})
        elif event["event"] == "upload":
            shutil.copyfile(event["path"], kept)
            tell(event="complete", oid=oid)
        else:
            taken = folder / f"{oid}.taken"  # git-lfs moves it
            shutil.copyfile(kept, taken)
            tell(event="complete", oid=oid, path=str(taken))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
