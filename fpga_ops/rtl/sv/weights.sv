// Reads the weights of each convolution from external memory, WB bytes a cycle at best, as far ahead as its queues
// allow. A word lies across LANES ports side by side (one a memory bank): bytes [i PB, (i + 1) PB) of word n are at
// n PB of port i. The first `resident` of all words stay on the chip.
module weights import overlay_pkg::*; #(
  parameter int WB = 64, PB = 64, DEPTH = 256, RESIDENT = 0, localparam int PORTS = WB / PB
) (
  input  logic clk, reset, forget, load,
  input  logic [31:0] resident,
  output logic loaded,
  input  logic layer_valid,
  input  layer_t layer,
  output logic layer_pop,
  input  logic [PORTS-1:0][63:0] base,
  axi_read.reader bus [PORTS],
  output logic valid,
  output logic [WB*8-1:0] word,
  input  logic pop,
  output logic [15:0] count
);
  logic [PORTS-1:0] has, ready, here;
  logic [PORTS-1:0][15:0] counts;
  wire unused_counts = ^counts;
  wire job = layer_valid && &ready;

  assign layer_pop = job;
  assign valid = &has;
  assign count = counts[0];
  assign loaded = &here;
  for (genvar i = 0; i < PORTS; i++) begin : port
    resident_reader #(.BYTES(PB), .DEPTH(DEPTH), .RESIDENT(RESIDENT)) reader (
      .clk, .reset, .forget, .load, .resident, .loaded(here[i]), .base(base[i]), .job, .job_ready(ready[i]),
      .first(layer[F_W_BASE]), .beats(layer[F_W_WORDS]), .bus(bus[i]),
      .valid(has[i]), .data(word[i*PB*8 +: PB*8]), .pop(pop), .count(counts[i])
    );
  end
endmodule
