"""`accelerate launch --cpu --num_processes N` really starts N processes. No torch: most commands need none of it."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

#: Words of a command line after which accelerate's own options follow.
_LAUNCHERS = ("launch", "accelerate.commands.launch", "accelerate-launch")
#: What a launcher sets in each of several processes.
_RANKS = frozenset({"RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"})


def is_alone(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether accelerate was asked for several CPU processes and started this one alone.

    That is what it does without an MPI hostfile, and says nothing.
    """
    meant = environment.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1") and "MASTER_PORT" in environment
    return meant and not _RANKS & environment.keys()


def asked_for(words: Sequence[str]) -> int:
    """The number of processes that an accelerate command line asks for; 1 where it does not say, or is none."""
    from accelerate.commands.launch import launch_command_parser

    begin = next((place for place, word in enumerate(words) if Path(word).name in _LAUNCHERS), None)
    if begin is None:
        return 1
    asked, _ = launch_command_parser().parse_known_args(list(words[begin + 1 :]))
    several = (asked.num_machines or 1) > 1  # each machine would have to know its place among them
    return 1 if several else (asked.num_processes or 1)


def start_all_processes() -> None:
    """Where accelerate started this program alone instead of N times on the CPU: become torch's launcher of all N.

    N stands on accelerate's own command line, the parent's, which Linux tells. Returns where there is nothing to do.
    """
    if not is_alone():
        return
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_text(encoding="utf-8").split("\0")
    except (OSError, UnicodeDecodeError):
        return
    count = asked_for(words)
    if count > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        os.execv(sys.executable, [sys.executable, *launcher, *sys.argv])
