"""Runs that are killed at random and go on end with the same bytes as runs that nobody has killed.

Chains of runs of a small recipe, at default settings, so that the clock chooses runtime, widths and how trainings run.
Each run is killed (SIGKILL) after a random time and the same command is given again until it ends. Then the recipe that
the result holds, with what was chosen in it, is run once more without a kill, and weights, plans and recipe of both
have to be equal byte for byte. Whoever chose alike shares that run.

    python benchmarks/kills.py --kills 200 --out benchmarks/results/kills.jsonl
    python benchmarks/kills.py --recipe my.toml --kills 20
    python benchmarks/kills.py --method grain --kills 5 --out benchmarks/results/kills.jsonl

One line for each chain; the status is 1 if any differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

from row_files import append

RECIPE = """
model = "lenet5"
data = "mnist5k"
[target]
keep = 0.5
rounds = 2
[method]
name = "magnitude"
[pretrain]
epochs = 2
optimizer = "adamw"
lr = 2e-3
augment = "none"
[train]
epochs = {epochs}
optimizer = "adamw"
lr = 2e-3
augment = "none"
"""
WEIGHTS = {  # for methods of zeros: what they have to be told, and a training of their own for those that have one
    "grain": "",
    "kernel_pattern": "",
    "particle_filter": 'granularity = "kernels"\ngenerations = 4',
    "weight_magnitude": '[shape]\nepochs = {epochs}\naugment = "none"',
}
ZEROS = """
model = "lenet5"
data = "mnist5k"
[target]
keep = 0.96
of = "nonzero"
[method]
name = "{method}"
{more}
[pretrain]
epochs = 1
augment = "none"
[train]
epochs = {epochs}
augment = "none"
"""
SAME = ("weights.safetensors", "plans/001.json", "plans/002.json", "recipe.toml")
START = 3.0  # seconds in which hardly more than Python starts


@dataclass(frozen=True)
class Chain:
    """Runs of one command up to its end: how often and when they were killed, and what came out."""

    number: int
    killed_after: list[float]
    chosen: str
    same: bool
    differ: list[str]
    seconds: float
    method: str = "magnitude"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, help="another recipe than the small one")
    parser.add_argument("--method", choices=WEIGHTS, help="a small recipe with this method instead, in one round")
    parser.add_argument("--epochs", type=int, default=12, help="of the small recipe, in each of its rounds")
    parser.add_argument("--kills", type=int, default=10, help="no chain begins after so many")
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    parser.add_argument("--out", type=Path, help="file for the chains, one JSON object a line")
    return parser.parse_args()


def small(method: str | None, epochs: int) -> str:
    """Return a small recipe, with the method or with that of all chains by default."""
    if method is None:
        return RECIPE.format(epochs=epochs)
    return ZEROS.format(method=method, more=WEIGHTS[method].format(epochs=epochs), epochs=epochs)


def command(recipe: Path, folder: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "secateur", "run", str(recipe), "--out", str(folder), "--quiet"]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def finish(process: subprocess.Popen[bytes], within: float | None) -> bool:
    """Say whether it ended in time; kill it, with all that it has started, if not."""
    try:
        _, said = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return False
    if process.returncode:
        raise SystemExit(f"a run failed: {said.decode(errors='replace').strip()}")
    return True


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in SAME if (folder / name).exists()}


def chain(number: int, recipe: Path, place: Path, typical: float, rng: random.Random) -> tuple[Path, list[float]]:
    """Run a command until it ends, killed on the way; return its folder and the times of the kills."""
    folder, killed = place / f"chain-{number}", list[float]()
    while True:
        longest = (0.75 + 0.1 * len(killed)) * typical  # more and more, or a machine that got busy would never end one
        delay = rng.uniform(START, max(longest, START + 1))
        if finish(command(recipe, folder), delay):
            return folder, killed
        killed.append(round(delay, 2))


def main() -> None:
    asked, chains, references = arguments(), list[Chain](), dict[str, dict[str, str]]()
    rng = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        recipe = asked.recipe or place / "recipe.toml"
        if asked.recipe is None:
            recipe.write_text(small(asked.method, asked.epochs))
        method = tomllib.loads(recipe.read_text())["method"]["name"]
        started = time.monotonic()
        finish(command(recipe, place / "typical"), None)
        typical = time.monotonic() - started
        print(f"without a kill: {typical:.1f} s", flush=True)
        while sum(len(each.killed_after) for each in chains) < asked.kills:
            started, number = time.monotonic(), len(chains) + 1
            folder, killed = chain(number, recipe, place, typical, rng)
            found, saved = digests(folder), (folder / "recipe.toml").read_text()
            chosen = hashlib.sha256(saved.encode()).hexdigest()[:8]
            if chosen not in references:
                finish(command(folder / "recipe.toml", place / f"reference-{chosen}"), None)
                references[chosen] = digests(place / f"reference-{chosen}")
            differ = [each for each in SAME if found.get(each) != references[chosen].get(each)]
            left = [
                path.name for path in place.iterdir() if path.name.startswith((f"chain-{number}.", f".chain-{number}"))
            ]
            differ += [f"left behind: {each}" for each in left]
            seconds = time.monotonic() - started
            chains.append(Chain(number, killed, chosen, not differ, differ, round(seconds, 1), method))
            word = "the same" if not differ else f"DIFFERS in {', '.join(differ)}"
            print(f"chain {number}: {len(killed)} kills, choices {chosen}, {word} ({seconds:.0f} s)", flush=True)
            if asked.out is not None:
                append(asked.out, asdict(chains[-1]))
    kills, bad = sum(len(each.killed_after) for each in chains), sum(not each.same for each in chains)
    print(f"{kills} kills in {len(chains)} chains with {len(references)} sets of choices: {bad} differ")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
