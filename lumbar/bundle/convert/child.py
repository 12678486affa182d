"""The child process that unpickles checkpoints, and what it says of each: see `reader.py`, which it runs."""

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from lumbar.bundle.verify import PICKLE_STARTS, refuse_stand_in
from lumbar.issues import InputError

#: Memory for reading a checkpoint: some times its size, and room for the interpreter.
_MEMORY_TIMES: Final = 4
_MEMORY_EXTRA: Final = 1 << 30
_READ_SECONDS: Final = 600
_REMEDY: Final = "give a file that the original's training saved"


class ReadingChild:
    """One child for many checkpoints, since starting takes it seconds; begun at the first. Use it as a context."""

    def __init__(self) -> None:
        self.seconds = _READ_SECONDS  # for a checkpoint
        self._process: subprocess.Popen[str] | None = None
        self._held = ExitStack()

    def __enter__(self) -> "ReadingChild":
        said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # on standard error
        self._said = self._held.enter_context(said)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._held.close()

    def state_files(self, path: Path, scratch: Path) -> dict[str, Path]:
        """The state dicts of a checkpoint, each a safetensors file in `scratch`, by their place in it.

        Raises InputError where the file is damaged, holds more than tensors, or needs too much memory or time.
        """
        refuse_stand_in(path)
        with path.open("rb") as stream:
            if not stream.read(4).startswith(PICKLE_STARTS):
                raise InputError(f"{path}: cannot be read (it is no file that torch saved); {_REMEDY}")
        memory = _MEMORY_TIMES * path.stat().st_size + _MEMORY_EXTRA
        answer = self._asked(str(path), str(scratch), memory, self.seconds)
        if answer is None:
            ended = f"reading ended with {self._end()}"
            self._said.seek(0)
            raise InputError(f"{path}: {''.join(self._said.readlines()[-1:]).strip() or ended}; {_REMEDY}")
        if "reason" in answer:
            raise InputError(f"{path}: {answer['reason']}; {_REMEDY}")
        return {place: scratch / f"{number}.safetensors" for number, place in enumerate(answer["places"])}

    def _asked(self, *question: str | int) -> dict[str, list[str] | str] | None:
        """The child's answer; None where it ended without one."""
        if self._process is None:
            reader = Path(__file__).with_name("reader.py")
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(reader)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                encoding="utf-8",
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            print(json.dumps(question), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        return json.loads(answer) if answer else None

    def _end(self) -> int:
        """End the child, and its exit status."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        with process:
            process.kill()
        return process.returncode
