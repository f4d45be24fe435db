"""git-theta's filter, many times in one process: run by the Python of .venv-git-theta, in a repository's root.

`git-theta-filter` compiles its hash for seconds whenever it starts. This runs its own `run_clean` and `run_smudge` with
what git would give them: standard input and output, directory, environment. Requests and answers are lines of JSON.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import sys
import traceback


def main() -> None:
    """Answer until the end of the input."""
    requests, answers = sys.stdin, sys.stdout
    program = importlib.import_module("git_theta.scripts.git_theta_filter")
    verbs = {"clean": program.run_clean, "smudge": program.run_smudge}
    before = dict(os.environ)
    for line in requests:
        request = json.loads(line)
        os.environ.clear()
        os.environ.update(before | request["environment"])
        os.chdir(request["directory"])
        with open(request["source"], "rb") as source, open(request["target"], "wb") as target:
            sys.stdin, sys.stdout = io.TextIOWrapper(source), io.TextIOWrapper(target, write_through=True)
            try:
                verbs[request["verb"]](argparse.Namespace(file=request["path"]))
                sys.stdout.flush()
                complaint = None
            except Exception:  # noqa: BLE001 - whatever it is, the test says it
                complaint = traceback.format_exc()
            finally:
                sys.stdin, sys.stdout = requests, answers
        answers.write(json.dumps(complaint) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
