"""What the wire adds to a tick: the round trip as a client sees it, less what the tick itself took.

    python -m tests.bench.bench_serving [--hz 60] [--ticks 300] [--rounds 5] [--sizes 64x64 832x480]
        [--clients python c cpp csharp javascript rust] [--json FILE]

A round trip goes from the call to the return with a picture that is the caller's own. From it the tick as its session
measured it is taken away (`latency_us.total` less `latency_us.queue`), so that everything else counts as added:
packing, sending, the server's queue and threads, its reply, and the client's copy of the picture. The tick is one
denoising step of a made-up world whose graphs cost next to nothing, without a time limit.

Beside ours, in turns with it: `npy`, a REQ/REP server written for the comparison, with arrays as .npy inside msgpack
(`npy_peer`); the same worlds, the same pace, the same client process. It says what its ticks took in the same way. The
ratio is ours through it, round by round.

The programs of bindings/wire/ report quantiles of their round trips only; from these the median tick of that round, as
the server saw it, is taken away ("~"). That is right for the median where ticks vary little; of the tail it is an upper
estimate. They are paced by the rate of the world, which is made `--hz`.

Frames travel as a part of the message or in shared memory, over loopback TCP, plain and encrypted (CURVE). `--hz 0` is
back to back; then everything is faster, for nobody sleeps in between. Figures are medians over the rounds.

Prints a table, and as its last line one JSON document with the machine, the commit and the command. Ends with status 1
if a program did not play to the end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import zmq.auth
from tqdm import tqdm

from dsa_runtime import WorldSpec
from tests.bench.provenance import json_line
from tests.bench.serving_roles import Role
from tests.bench.serving_rounds import Lane, Round, compare, quantiles, ratio_text, summary, text
from tests.bench.wire_programs import LANGUAGES, NotBuilt, ProgramFailed, build, round_trip_us
from tests.tiny_world import edit_spec, write_tiny_world

DIGITS = {"p50": "50", "p99": "99", "p99_9": "999"}  # as the programs write them
FRAMES = ("part", "shm")
BACK_TO_BACK_FPS = 60.0  # a world has some rate, also where nobody keeps it


@dataclass(frozen=True)
class Stage:
    """What is running."""

    plain: Role
    curve: Role
    npy: Role
    client: Role
    keys: list[str]
    """File of the client's secret key, and the server's public key."""
    environment: Mapping[str, str]
    """The same for the programs."""
    programs: Mapping[str, Sequence[str]]
    """How each language's client is called."""
    picture: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. `arguments` without the program's name."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.bench_serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--hz", type=float, default=60.0, help="0: back to back (default: %(default)g)")
    parser.add_argument("--ticks", type=int, default=300, help="of a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--sizes", nargs="+", default=["64x64", "832x480"], metavar="WxH")
    parser.add_argument("--clients", nargs="+", default=["python", *LANGUAGES], choices=("python", *LANGUAGES))
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the JSON document there as well")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    tqdm.monitor_interval = 0  # no thread of its own while we measure
    with TemporaryDirectory() as folder:
        programs, not_built = build_all(options.clients, Path(folder))
        packages = [write_world(Path(folder), size, options.hz) for size in options.sizes]
        spec = WorldSpec.from_json((packages[0] / "world.json").read_bytes(), "world.json")
        lanes = lanes_of(options.sizes, [one for one in options.clients if one not in not_built])
        rounds, failed = measure(lanes, options, packages, programs, Path(folder))
    rows, ratios = [summary(lane, played) for lane, played in rounds.items()], compare(rounds)
    print(text(rows))
    print("\n" + ratio_text(ratios))
    for what, why in {**not_built, **failed}.items():
        print(f"not measured: {what}: {why}")
    figures = {"hz": options.hz, "ticks": options.ticks, "rounds": options.rounds, "rows": rows, "ratios": ratios,
               "not_built": not_built, "failed": failed}  # fmt: skip
    line = json_line("serving", given, spec, **figures)
    if options.json:
        options.json.write_text(line + "\n")
    print(line)
    return 1 if failed else 0


def build_all(clients: Sequence[str], folder: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The programs by language, and why there is none."""
    programs, missing = {}, {}
    for language in clients:
        if language == "python":
            continue
        try:
            programs[language] = build(language, folder / language)
        except NotBuilt as error:
            missing[language] = str(error)
    return programs, missing


def write_world(folder: Path, size: str, hz: float) -> Path:
    """A package whose frames have this size ("WIDTHxHEIGHT") and whose rate is the one that is kept."""
    width, height = map(int, size.split("x"))
    package = write_tiny_world(folder / size, name=size, height=height, width=width)
    edit_spec(package, lambda document: document["frame"].update(fps=hz or BACK_TO_BACK_FPS))
    return package


def lanes_of(sizes: Sequence[str], clients: Sequence[str]) -> list[Lane]:
    """In the order of the rounds: what is compared with each other lies next to each other."""
    lanes = []
    for size in sizes:
        lanes.append(Lane("npy", size, "npy", False))
        lanes += [Lane(client, size, frames, curve) for client in clients for curve in (False, True)
                  for frames in FRAMES]  # fmt: skip
    return lanes


def measure(
    lanes: Sequence[Lane],
    options: argparse.Namespace,
    packages: Sequence[Path],
    programs: Mapping[str, Sequence[str]],
    folder: Path,
) -> tuple[dict[Lane, list[Round]], dict[str, str]]:
    """Play all lanes in turns, as often as there are rounds. Also says which have failed, and how."""
    names, secret, public, environment, access = [*map(str, packages)], *make_keys(folder)
    found: dict[Lane, list[Round]] = {lane: [] for lane in lanes}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        start = stack.enter_context
        stage = Stage(
            plain=start(Role("serve", {"packages": names, "keys": None})),
            curve=start(Role("serve", {"packages": names, "keys": access})),
            npy=start(Role("npy", {"packages": names})),
            client=start(Role("client")),
            keys=[secret, public],
            environment=environment,
            programs=programs,
            picture=folder / "frame.ppm",
        )
        for role in (stage.plain, stage.curve, stage.npy, stage.client):
            assert role.ready is not None
        bar = start(tqdm(total=options.rounds * len(lanes), unit="round", disable=None, leave=False))
        for _ in range(options.rounds):
            for lane in list(found):
                play = play_program if lane.client in programs else play_python
                try:
                    found[lane].append(play(stage, lane, options))
                except ProgramFailed as error:
                    failed[lane.name] = str(error)
                    del found[lane]
                bar.update()
    return found, failed


def make_keys(folder: Path) -> tuple[str, str, dict[str, str], list[str]]:
    """Key pairs of a server and of a client that it lets in: what the client, the programs and the server need."""
    for name in ("server", "client"):
        zmq.auth.create_certificates(folder, name)
        (folder / f"{name}.key_secret").chmod(0o600)
    server, _ = zmq.auth.load_certificate(folder / "server.key")
    public, secret = zmq.auth.load_certificate(folder / "client.key_secret")
    assert secret is not None
    (folder / "allowed").write_text(f"{public.decode()}\n")
    environment = {
        "DSA_SERVER_KEY": server.decode(),
        "DSA_PUBLIC_KEY": public.decode(),
        "DSA_SECRET_KEY": secret.decode(),
    }
    access = [str(folder / "server.key_secret"), str(folder / "allowed")]
    return str(folder / "client.key_secret"), server.decode(), environment, access


def play_python(stage: Stage, lane: Lane, options: argparse.Namespace) -> Round:
    """A round of the Python client, with either server."""
    pace = {"hz": options.hz, "ticks": options.ticks, "world": lane.size}
    if lane.client == "npy":
        pairs = stage.client.ask(npy=True, address=stage.npy.ready["address"], **pace)
    else:
        server, keys = (stage.curve, stage.keys) if lane.curve else (stage.plain, None)
        address = server.ready["address"]
        pairs = stage.client.ask(npy=False, address=address, frames=lane.frames, keys=keys, **pace)
    trip, tick = np.array(pairs).T
    return Round(quantiles(trip), quantiles(tick), quantiles(trip - tick))


def play_program(stage: Stage, lane: Lane, options: argparse.Namespace) -> Round:
    """A round of one of the programs."""
    server = stage.curve if lane.curve else stage.plain
    server.ask()  # what its ticks took before is of no interest
    arguments = [server.ready["address"], "--world", lane.size, "--ticks", str(options.ticks), "--steps", "1"]
    arguments += ["--picture", str(stage.picture)]
    arguments += ["--shm"] if lane.frames == "shm" else []
    arguments += ["--fast"] if not options.hz else []
    said = round_trip_us(stage.programs[lane.client], arguments, stage.environment if lane.curve else {})
    trip = {name: said[digits] / 1e3 for name, digits in DIGITS.items() if digits in said}
    tick = quantiles(np.array(server.ask()))
    return Round(trip, tick, {name: value - tick["p50"] for name, value in trip.items()})


if __name__ == "__main__":
    sys.exit(main())
