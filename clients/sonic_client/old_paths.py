"""Where modules of earlier releases are now; see `fpga_ops.moved_modules`."""

MOVED = {
    "sonic_client.bench": "triton_fpga_bench.service",
    "sonic_client.columns": "sonic_client.events.branches",
    "sonic_client.faults": "sonic_client.core.faults",
    "sonic_client.files": "sonic_client.events.files",
    "sonic_client.jets": "sonic_client.events.jets",
    "sonic_client.pool": "sonic_client.core.server_pool",
    "sonic_client.session": "sonic_client.core.session",
    "sonic_client.statistics": "sonic_client.core.timing",
    "sonic_client.tagging": "sonic_client.tag_file",
    "sonic_client.transports": "sonic_client.core.transports",
    "sonic_client.url": "sonic_client.core.url",
}
