"""The groups of emoji: the nine groups of Unicode's emoji-test.txt (version 15.0; UTS 51), without Component.

A group is a set of ranges of code points. `STARTS` lists where its ranges begin. A range ends where the next range of any group
begins, so code points between two emoji that are no emoji belong to the range before them. In emoji-test.txt a sequence (a pair
of regional indicators, a woman joined with a rocket, …) has the group of its first code point. A font lists sequences in both
directions, so an order of the groups decides here. The result differs for two emoji: the eye in a speech bubble and the broken
chain.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

STARTS = {
    "Smileys & Emotion": (
        "2620 2639 2763 1F479 1F47D 1F48B 1F493 1F4A2 1F4A4 1F4A8 1F4AB 1F4AF 1F573 1F5A4 1F5E8 1F600 1F648 1F90D 1F910 "
        "1F920 1F927 1F970 1F978 1F9D0 1F9E1 1FA75 1FAE0 1FAE8"
    ),
    "People & Body": (
        "261D 26F7 26F9 270A 1F385 1F3C2 1F3C7 1F3CA 1F440 1F463 1F47C 1F481 1F485 1F48F 1F491 1F4AA 1F574 1F57A 1F590 "
        "1F5E3 1F645 1F64B 1F6A3 1F6B4 1F6C0 1F6CC 1F90C 1F90F 1F918 1F926 1F930 1F977 1F9B4 1F9BB 1F9BE 1F9CC 1F9D1 "
        "1FAC0 1FAE6 1FAF0"
    ),
    "Animals & Nature": (
        "2618 1F331 1F337 1F33E 1F3F5 1F400 1F490 1F4AE 1F54A 1F577 1F940 1F981 1F992 1F99F 1F9AB 1FAB0 1FAB6 1FACE"
    ),
    "Food & Drink": ("2615 1F32D 1F336 1F33D 1F345 1F382 1F3FA 1F52A 1F942 1F950 1F980 1F990 1F99E 1F9AA 1F9C0 1FAD0"),
    "Travel & Places": (
        "231A 23F0 2600 2614 2668 2693 26A1 26C4 26E9 26F4 26FA 2708 2744 2B50 1F300 1F3A0 1F3AA 1F3CD 1F3D4 1F3E8 "
        "1F3EF 1F488 1F492 1F4A7 1F4BA 1F525 1F54B 1F550 1F570 1F5FA 1F680 1F6A4 1F6B2 1F6CE 1F6D1 1F6D5 1F6DD 1F6E2 "
        "1F6F8 1F9BC 1F9ED 1F9F1 1F9F3 1FA82 1FA90 1FAA8 1FAB5"
    ),
    "Activities": (
        "265F 26BD 26F3 26F8 2728 1F004 1F380 1F383 1F386 1F38D 1F396 1F39F 1F3A3 1F3A8 1F3AB 1F3AD 1F3BD 1F3C5 1F3C8 "
        "1F3CF 1F3F8 1F52B 1F52E 1F579 1F5BC 1F6F7 1F93F 1F945 1F9E7 1F9F5 1F9F8 1FA80 1FA84 1FAA1 1FAA9"
    ),
    "Objects": (
        "2328 260E 2692 2694 2696 26B0 26CF 2702 2709 270F 1F392 1F399 1F3A4 1F3A7 1F3A9 1F3AC 1F3B5 1F3EE 1F3F7 1F3F9 "
        "1F451 1F484 1F489 1F48D 1F4A1 1F4A3 1F4B0 1F4B3 1F4BB 1F4DC 1F4F7 1F507 1F526 1F52C 1F56F 1F576 1F587 1F5A5 "
        "1F5C2 1F5F3 1F5FF 1F6AA 1F6AC 1F6BD 1F6BF 1F6C1 1F6CB 1F6CD 1F6CF 1F6D2 1F6D7 1F6E0 1F941 1F97B 1F9AF 1F9BA "
        "1F9E2 1F9EA 1F9EE 1F9F2 1F9F4 1F9F7 1F9F9 1FA78 1FA83 1FA87 1FA91 1FAA3 1FAAA 1FAE7"
    ),
    "Symbols": (
        "23 23CF 23F8 2611 2622 2640 267B 2695 269B 26A7 26CE 26D4 2705 2714 2733 2747 2795 2B55 1F170 1F201 1F3A6 "
        "1F3E7 1F4A0 1F4B1 1F4DB 1F4F3 1F500 1F518 1F52F 1F54E 1F6AB 1F6AD 1F6B3 1F6B7 1F6BE 1F6C2 1F6D0 1F6DC 1F7E0 "
        "1FAAF"
    ),
    "Flags": ("1F1E6 1F38C 1F3C1 1F3F3 1F6A9"),
}
GROUPS = tuple(STARTS)
# Code points that change only how an emoji looks: joiner, variation selector, tones of skin, hair.
MODIFIERS = frozenset([0x200D, 0xFE0F, *range(0x1F3FB, 0x1F400), *range(0x1F9B0, 0x1F9B4)])
# Code points that are no emoji alone: #, *, digits, the key around them, regional indicators.
HALVES = frozenset([0x23, 0x2A, *range(0x30, 0x3A), 0x20E3, *range(0x1F1E6, 0x1F200)])
END = 0x1FC00  # private characters and tags lie above
# A sequence has the first of these groups that one of its code points has: flags with symbols, people with tools, …
FIRST = ("Flags", "People & Body", "Animals & Nature", "Food & Drink", "Smileys & Emotion")

_RUNS = sorted((int(start, 16), group) for group, starts in STARTS.items() for start in starts.split())
_LOWS = [start for start, _ in _RUNS]


def group_of(code_points: Iterable[int]) -> str | None:
    """The group of an emoji (a code point, or a sequence in any order); None for a part of an emoji and for no emoji."""
    points = [point for point in code_points if point not in MODIFIERS and _LOWS[0] <= point < END]
    if len(points) == 1 and points[0] in HALVES:
        return None
    found = [_RUNS[bisect_right(_LOWS, point) - 1][1] for point in points]
    return next((group for group in FIRST if group in found), found[0] if found else None)
