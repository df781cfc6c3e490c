"""What the libraries cannot hold."""

from __future__ import annotations

#: What a library cannot hold, and what its error says.
CANNOT_HOLD: dict[str, dict[str, str]] = {
    "numpy": {},
    "jax": dict.fromkeys(("int64", "uint64", "float64", "complex128"), "64 bits") | {"string": "strings"},
    "torch": dict.fromkeys(("int4", "uint4", "string"), "cannot store"),
    "tensorflow": {"string": "strings"},
}
