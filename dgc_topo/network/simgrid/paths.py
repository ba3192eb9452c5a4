"""Routes between any two points of a platform, however deep their zones are."""

from __future__ import annotations

from itertools import product

from dgc_topo.network.simgrid.zones import Point, Route, Zone


def find_path(src: Point, dst: Point) -> tuple[int, ...]:
    """Return the links from one point to another.

    The zone around both knows the way between its parts; inside each part, the way leads from or
    to the gateway that this route names.

    Raises:
        ValueError: if there is no route.
    """
    if src is dst:
        return ()
    around_src, around_dst = src.zones, dst.zones
    depth = 0
    for one, other in zip(around_src, around_dst, strict=False):
        if one is not other:
            break
        depth += 1
    zone = around_src[depth - 1]
    from_points, to_points = [*around_src[depth:], src], [*around_dst[depth:], dst]
    ends, route = _bypass(zone, from_points, to_points)
    if route is None:
        ends = from_points[0], to_points[0]
        route = zone.local(*ends)
    return (
        *_inside(src, ends[0], route.src, leaves=True),
        *route.links,
        *_inside(dst, ends[1], route.dst, leaves=False),
    )


def _bypass(
    zone: Zone, from_points: list[Point], to_points: list[Point]
) -> tuple[tuple[Point, Point], Route | None]:
    """Return the innermost bypass between two points, or between zones around them."""
    ends = from_points[-1], to_points[-1]
    if not zone.bypasses:
        return ends, None
    if len(from_points) == len(to_points) == 1:
        return ends, zone.bypasses.get(ends)
    # SimGrid looks at the zones around both, from the inside; the zone itself is the last.
    one, other = ([*reversed(points[:-1]), zone] for points in (from_points, to_points))
    at = sorted(
        product(range(len(one)), range(len(other))),
        key=lambda pair: (max(pair), min(pair), pair[0] > pair[1]),
    )
    for first, second in at:
        ends = one[first], other[second]
        if ends in zone.bypasses:
            return ends, zone.bypasses[ends]
    return ends, None


def _inside(point: Point, part: Point, gateway: Point | None, *, leaves: bool) -> tuple[int, ...]:
    """Return the links between a point and the gateway of the part that it is in."""
    if point is part:
        return ()
    if gateway is None:
        gateway = part.gateway if isinstance(part, Zone) else None
    if gateway is None:
        raise ValueError(f"no gateway of zone {part.name}, expected its route to name one")
    return find_path(point, gateway) if leaves else find_path(gateway, point)
