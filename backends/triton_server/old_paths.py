"""Where modules of earlier releases are now; see `fpga_ops.moved_modules`."""

MOVED = {
    "triton_server.control": "triton_server.server.control_api",
    "triton_server.gate": "triton_server.supervisor.outage_responder",
    "triton_server.health": "triton_server.supervisor.health_endpoint",
    "triton_server.locate": "triton_server.server.installation",
    "triton_server.probe": "triton_server.supervisor.probe",
    "triton_server.verify": "triton_server.repository.admission",
    "triton_server.watched": "triton_server.supervisor.context",
}
