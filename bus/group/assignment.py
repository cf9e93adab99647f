"""Which member owns which shard: pure, and the same on every member that sees the same members.

Bounded rendezvous hashing. Every pair of member and shard has a weight; pairs are taken in the
order of their weights, and a member takes shards until it has its fair share. The weights of the
other pairs do not change when a member joins or leaves, so that most shards stay where they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

__all__ = ["assign"]


def assign(members: Collection[str], shards: int) -> dict[str, frozenset[int]]:
    """Share shards 0 to ``shards`` - 1 among members.

    Returns:
        The shards of each member. No member has more than one above another; each shard has
        exactly one owner, unless there are no members.
    """
    names = sorted(set(members))
    if not names:
        return {}
    fair, extra = divmod(shards, len(names))
    owned: dict[str, set[int]] = {name: set() for name in names}
    is_taken = [False] * shards
    pairs = sorted((_weight(name, shard), name, shard) for name in names for shard in range(shards))
    for _, name, shard in pairs:
        if is_taken[shard] or len(owned[name]) > fair:
            continue
        if len(owned[name]) == fair:
            if not extra:
                continue
            extra -= 1
        owned[name].add(shard)
        is_taken[shard] = True
    return {name: frozenset(taken) for name, taken in owned.items()}


def _weight(member: str, shard: int) -> bytes:
    return hashlib.blake2b(f"{shard}/{member}".encode(), digest_size=8).digest()
