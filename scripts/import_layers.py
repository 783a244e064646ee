"""Print the rooms of vqnmt from the top down, with what each imports, its files and its lines.

python scripts/import_layers.py
"""

from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Print a line for each room, and the import circles, if there are any."""
    graph = grimp.build_graph("vqnmt", cache_dir=None)
    rooms = sorted(graph.find_children("vqnmt"))
    for room in rooms:
        graph.squash_module(room)
    imports = {
        room: graph.find_modules_directly_imported_by(room) & set(rooms) - {room} for room in rooms
    }
    depths: dict[str, int] = {}
    while len(depths) < len(rooms):
        ready = {r for r in rooms if r not in depths and imports[r] <= depths.keys()}
        if not ready:
            print("circle among:", ", ".join(sorted(set(rooms) - depths.keys())))
            return
        depth = max(depths.values(), default=-1) + 1
        depths |= dict.fromkeys(ready, depth)
    print(f"{'layer':>5}  {'room':<12} {'files':>5} {'lines':>6}  imports")
    for room in sorted(rooms, key=lambda room: (-depths[room], room)):
        name = room.removeprefix("vqnmt.")
        place = ROOT / "vqnmt" / name
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
        below = ", ".join(sorted(other.removeprefix("vqnmt.") for other in imports[room]))
        print(f"{depths[room]:>5}  {name:<12} {len(files):>5} {lines:>6,}  {below or '-'}")
    print("no circles")


if __name__ == "__main__":
    main()
