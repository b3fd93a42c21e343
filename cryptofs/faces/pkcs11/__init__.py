"""The devices' key pairs as a PKCS#11 token, for programs that load p11-kit's `p11-kit-client.so`."""

from .calls import serve_client
from .objects import ALGORITHMS

__all__ = ["ALGORITHMS", "serve_client"]
