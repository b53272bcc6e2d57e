"""From the kernels to what runs: the vendor's compiler, bitstreams, the emulator."""
