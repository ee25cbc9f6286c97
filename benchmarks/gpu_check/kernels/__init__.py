"""Every kernel of the fused step against float64, or exactly, at real shapes."""
