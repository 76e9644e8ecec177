"""The tables of docs/statistics.md. One process, one thread, minutes each:

python -m tests.simulations separation|power|coverage|video
"""

import sys

from tests.simulations.worlds import DEVIATIONS, World, coverage, separations, video_coverage


def separation() -> None:
    print("| deviation of a training | seeds | images alone | Welch + images | ours |")
    print("|---|--:|--:|--:|--:|")
    for name, deviations in DEVIATIONS.items():
        for seeds in (1, 3, 5, 10):
            found = separations(deviations, seeds, experiments=8000)
            ours, welch = (
                "–" if seeds == 1 else f"{found[rule][0]:.1%}" for rule in ("ours", "welch")
            )
            print(f"| {name} | {seeds} | {found['images'][0]:.1%} | {welch} | {ours} |", flush=True)


def power() -> None:
    print("| true difference, in deviations of a training | 3 seeds | 5 | 10 |")
    print("|--:|--:|--:|--:|")
    for shift in (1, 2, 3, 4):
        found = [
            separations(DEVIATIONS["equal"], seeds, shift=float(shift))["ours"][1]
            for seeds in (3, 5, 10)
        ]
        print(f"| {shift} | " + " | ".join(f"{each:.0%}" for each in found) + " |", flush=True)


def covered() -> None:
    print("| classes | images | tail | score | difference | n images less the long run, points |")
    print("|--:|--:|---|--:|--:|--:|")
    for classes, rare in ((19, 0.06), (150, 0.006)):
        for images in (20, 50, 96, 500):
            for tail in ("t3", "lognormal"):
                world = World(classes, images, tail, 0.99 if classes == 19 else 0.85, rare)
                found = coverage(world, experiments=400 if images < 500 else 200)
                print(
                    f"| {classes} | {images} | {tail} | {found['score']:.0%} | "
                    f"{found['difference']:.0%} | {found['bias']:+.1f} |",
                    flush=True,
                )


def video() -> None:
    print("| frames | correlation | single frames | blocks | with ends | median block |")
    print("|--:|--:|--:|--:|--:|--:|")
    for frames in (100, 200, 400):
        for memory in (0.0, 0.5, 0.8, 0.95):
            single, *_ = video_coverage(frames, memory, independent=True)
            held, ends, block = video_coverage(frames, memory)
            print(
                f"| {frames} | {memory:g} | {single:.0%} | {held:.0%} | {ends:.0%} | {block:g} |",
                flush=True,
            )


if __name__ == "__main__":
    TABLES = {"separation": separation, "power": power, "coverage": covered, "video": video}
    TABLES[sys.argv[1]]()
