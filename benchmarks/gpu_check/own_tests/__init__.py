"""The project's own tests of the fused step, on the device."""
