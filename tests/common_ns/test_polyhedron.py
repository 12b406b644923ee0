"""The directions that positions are encoded along."""

import math

import pytest
import torch

from common_ns.polyhedron import basis_directions


@pytest.mark.parametrize(("name", "count"), [("icosahedron-21", 21), ("icosahedron-6", 6), ("axes", 3)])
def test_directions_are_unit_vectors_spread_evenly_without_opposites(name, count):
    basis = basis_directions(name)
    assert basis.shape == (3, count) and basis.dtype == torch.float32
    gram = basis.T @ basis
    assert torch.allclose(gram.diagonal(), torch.ones(count), atol=1e-6)
    # The closest two are an edge of the subdivided icosahedron apart, more than 30°, also as lines.
    assert (gram - torch.eye(count)).abs().max() < math.cos(math.radians(30))
    # Isotropic: all squared projections together are the same for every direction in space.
    assert torch.allclose(basis @ basis.T, count / 3 * torch.eye(3), atol=1e-5)


def test_six_axes_of_the_icosahedron_are_equiangular():
    gram = basis_directions("icosahedron-6").T @ basis_directions("icosahedron-6")
    off_diagonal = gram[~torch.eye(6, dtype=torch.bool)]
    assert torch.allclose(off_diagonal.abs(), torch.full((30,), 1 / math.sqrt(5)), atol=1e-6)


def test_twenty_one_are_the_vertices_and_the_middles_of_all_edges():
    vertices = basis_directions("icosahedron-6").T
    vertices = torch.cat([vertices, -vertices])
    # Neighboring vertices enclose the smaller angle; each of the 15 pairs of opposite edges gives one direction.
    pairs = [(a, b) for i, a in enumerate(vertices) for b in vertices[:i] if torch.dot(a, b) > 0]
    assert len(pairs) == 30
    middles = torch.stack([torch.nn.functional.normalize(a + b, dim=-1) for a, b in pairs])
    expected = torch.cat([vertices, middles])
    found = basis_directions("icosahedron-21").T
    closeness = (expected @ torch.cat([found, -found]).T).max(dim=-1).values
    assert (closeness > 1 - 1e-6).all()
    assert ((found @ expected.T).max(dim=-1).values > 1 - 1e-6).all()


def test_basis_is_the_same_at_every_call():
    assert torch.equal(basis_directions("icosahedron-21"), basis_directions("icosahedron-21"))
