"""The array primitives under the layers."""

from wtref.kernels.plain import gather, output_size, scatter

__all__ = ["gather", "output_size", "scatter"]
