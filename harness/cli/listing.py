"""`floe-bench list`: what there is, plugins with their options, and profiles."""

from __future__ import annotations

import argparse
import json
from typing import Any

from floe_bench.harness import registry
from floe_bench.harness.spec import profiles


def add_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="as JSON")


def command(options: argparse.Namespace) -> int:
    """Print it, and return 0."""
    listing: dict[str, list[dict[str, Any]]] = {
        kind: [
            {"id": p.id, "description": p.description, "options": p.options, "origin": p.origin}
            for p in registry.plugins(kind).values()
        ]
        for kind in registry.PACKAGES
    }
    listing["profile"] = [
        {
            "id": name,
            "description": profiles.load(name).description,
            "options": {},
            "origin": f"harness/spec/profiles/{name}.toml",
        }
        for name in profiles.names()
    ]
    if options.json:
        print(json.dumps(listing, indent=2))
        return 0
    for kind, entries in listing.items():
        print("mixes" if kind == "mix" else f"{kind}s")
        width = max(len(entry["id"]) for entry in entries)
        for entry in entries:
            print(f"  {entry['id']:{width}}  {entry['description']}  [{entry['origin']}]")
            if entry["options"]:
                text = ", ".join(f"{key}: {text}" for key, text in entry["options"].items())
                print(f"  {'':{width}}  options: {text}")
        print()
    return 0
