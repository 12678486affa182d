"""Mutated JPEG Lossless and JPEG-LS codestreams, decoded as the reader does, in processes of their own.

    python tests/support/fuzz_jpeg.py --mutations 20000 --seed 1

imagecodecs is C: what matters is that a damaged file neither ends the process nor holds it up. glibc checks its heap
where it can (`MALLOC_CHECK_`). A codestream that takes longer than LIMIT_SECONDS or ends the process is a finding;
mutation i of a seed is the same in every run. Sizes and the kind of codestream are mutated too, up to the reader's
limits, and the header follows them.
"""

import argparse
import json
import os
import random
import resource
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.fuzz import lines_of
from tests.support.fuzz_targets import mutate_bytes

LIMIT_SECONDS = 10.0
MEMORY = 3 * 2**30
KINDS = ("JPEG Lossless", "JPEG-LS")
MARKERS = {"JPEG Lossless": 0xC3, "JPEG-LS": 0xF7}
NASTY_MARKERS = (0xC4, 0xD0, 0xD7, 0xD9, 0xDA, 0xDD, 0xF8, 0xE8)
NASTY_SIDES = (16, 36, 40, 41, 64, 1000, 4096)
#: Depth in bits, rows, columns of the images to start from.
STARTS = ((8, 40, 36), (10, 64, 50), (12, 64, 64), (12, 17, 16), (14, 33, 65), (16, 40, 36), (16, 96, 80))


def seeds(kind: str) -> list[bytes]:
    import imagecodecs
    import numpy as np

    found = []
    for number, (bits, rows, columns) in enumerate(STARTS):
        y, x = np.mgrid[:rows, :columns]
        noise = np.random.default_rng(number).normal(0, 2**bits / 60, (rows, columns))
        wave = 2 ** (bits - 1) * (1 + 0.8 * np.sin(x / 9) * np.cos(y / 7)) + noise
        pixels = wave.clip(0, 2**bits - 1).astype("uint8" if bits == 8 else "uint16")
        pixels[3:9] = 0  # runs
        if kind == "JPEG-LS":
            found += [imagecodecs.jpegls_encode(pixels, level=level) for level in (0, 2)]
        else:
            found += [
                imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=predictor, bitspersample=bits)
                for predictor in (1, 2, 4, 6, 7)
            ]
            found.append(imagecodecs.ljpeg_encode(pixels, bitspersample=bits))
    return [bytes(one) for one in found]


def mutate(content: bytes, kind: str, dealer: random.Random) -> bytes:
    """Changes of bytes, runs and the length, often of a marker or the size too; an end where it was cut off."""
    data = bytearray(mutate_bytes(content, dealer))
    if dealer.random() < 0.4 and data:
        place = dealer.choice([dealer.randrange(len(data)), dealer.randrange(min(len(data), 300))])
        data[place : place + 2] = bytes((0xFF, dealer.choice(NASTY_MARKERS)))
    at = data.find(bytes((0xFF, MARKERS[kind])))
    if dealer.random() < 0.3 and 0 <= at < len(data) - 9:
        struct.pack_into(">HH", data, at + 5, dealer.choice(NASTY_SIDES), dealer.choice(NASTY_SIDES))
    return bytes(data) if b"\xff\xd9" in data[-8:] else bytes(data) + b"\xff\xd9"


def attempt(pool: list[bytes], kind: str, dealer: random.Random) -> str:
    """Decode the first mutation that passes the reader's own check of its claims."""
    from pydicom.uid import JPEGLosslessSV1, JPEGLSLossless

    from lumbar.dicom.compressed import _decode_jpeg, _jpeg_claim
    from lumbar.dicom.flaws import DAMAGE, UnusableError
    from lumbar.dicom.pixels import MAX_SIDE_PX, MIN_SIDE_PX

    while True:
        frame = mutate(dealer.choice(pool), kind, dealer)
        try:
            claim = _jpeg_claim(frame, MARKERS[kind])
        except UnusableError:
            continue
        if claim.components == 1 and all(MIN_SIDE_PX <= side <= MAX_SIDE_PX for side in claim[:2]):
            break
    try:
        samples = _decode_jpeg(frame, JPEGLSLossless if kind == "JPEG-LS" else JPEGLosslessSV1)
    except (UnusableError, *DAMAGE):
        return "refused"
    return "decoded" if samples.shape == claim[:2] else "other shape"  # which the reader refuses


def work_off(kind: str, seed: int, indices: list[int]) -> None:
    pool = seeds(kind)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for index in indices:
        print(json.dumps([index, attempt(pool, kind, random.Random(f"{seed}/{index}"))]), flush=True)


def run_kind(kind: str, seed: int, count: int) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Outcomes and findings; a worker that dies or hangs is replaced by a new one."""
    outcomes: Counter[str] = Counter()
    findings: list[dict[str, Any]] = []
    left = list(range(count))
    checked = os.environ | {"MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165", "LD_PRELOAD": "libc_malloc_debug.so.0"}
    while left:
        command = [sys.executable, __file__, "--worker", kind, "--seed", str(seed)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=checked
        ) as process:
            assert process.stdin is not None
            process.stdin.write(json.dumps(left))
            process.stdin.close()
            ended = "died"
            for line in lines_of(process, LIMIT_SECONDS):
                if line is None:
                    ended = "hung"
                    process.kill()
                    break
                index, outcome = json.loads(line)
                outcomes[outcome] += 1
                left.remove(index)
            process.wait()
        if left:
            outcomes[ended] += 1
            findings.append({"kind": kind, "index": left.pop(0), "outcome": ended, "exit": process.returncode})
    return outcomes, findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=20000, metavar="N", help="half of them of each kind")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work_off(args.worker, args.seed, json.load(sys.stdin))
        return 0
    report: dict[str, Any] = {"seed": args.seed, "outcomes": {}, "findings": []}
    for kind in KINDS:
        outcomes, findings = run_kind(kind, args.seed, args.mutations // 2)
        report["outcomes"][kind] = dict(outcomes)
        report["findings"] += findings
    print(json.dumps(report, indent=2))
    return bool(report["findings"])


if __name__ == "__main__":
    sys.exit(main())
