"""Encodings of positions: what a small network on top needs to show fine detail."""

from hashnffb_sdf_ns.encodings.base import Encoding
from hashnffb_sdf_ns.encodings.options import EncodingConfig, EncodingName, make_encoding

__all__ = ["Encoding", "EncodingConfig", "EncodingName", "make_encoding"]
