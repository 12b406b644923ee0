"""The marching-cubes table; what is assembled with it is tested with the fields in test_meshing."""

from __future__ import annotations

from common_ns.meshing.marching_cubes import EDGES, cube_table


def test_table_covers_every_crossed_edge_and_balances_orientation():
    table, counts = cube_table()
    assert counts[0] == counts[255] == 0 and counts.max() == 5
    for code in range(1, 255):
        crossed = {
            edge
            for edge, (corner, axis) in enumerate(EDGES)
            if (code >> corner & 1) != (code >> (corner + (4, 2, 1)[axis]) & 1)
        }
        triangles = table[code, : counts[code]]
        assert set(triangles.reshape(-1).tolist()) == crossed
        assert all(len(set(t)) == 3 for t in triangles.tolist())
