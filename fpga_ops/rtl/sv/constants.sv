// Reads the requantiser's constants, one block of BLOCK bytes for each group of output channels. The first `resident`
// beats stay on the chip.
module constants import overlay_pkg::*; #(parameter int BLOCK = 512, RESIDENT = 0) (
  input  logic clk, reset, forget, load,
  input  logic [31:0] resident,
  output logic loaded,
  input  logic layer_valid,
  input  layer_t layer,
  output logic layer_pop,
  input  logic [63:0] base,
  axi_read.reader bus,
  output logic valid,
  output logic [BLOCK*8-1:0] block,
  input  logic pop,
  output logic [15:0] count
);
  localparam int BEATS = BLOCK / PORT;
  wire wanted = layer[F_OP] == 32'(OP_CONV) || layer[F_OP] == 32'(OP_MAX) || layer[F_OP] == 32'(OP_SUM);
  logic ready, beat_valid, beat_ready;
  logic [PORT*8-1:0] beat;

  assign layer_pop = layer_valid && (ready || !wanted);
  resident_reader #(
    .BYTES(PORT), .DEPTH(2 * BEATS > 2 * BURST ? 2 * BEATS : 2 * BURST), .RESIDENT(RESIDENT)
  ) reader (
    .clk, .reset, .forget, .load, .resident, .loaded, .base, .job(layer_valid && wanted), .job_ready(ready),
    .first(layer[F_PAR_BASE] * BEATS), .beats(layer[F_GROUPS] * BEATS), .bus,
    .valid(beat_valid), .data(beat), .pop(beat_valid && beat_ready), .count
  );
  gearbox #(.IN(PORT), .OUT(BLOCK), .UNIT(PORT)) widen (
    .clk, .reset, .in_valid(beat_valid), .in_ready(beat_ready), .in(beat), .out_valid(valid), .out_ready(pop),
    .out(block)
  );
endmodule
