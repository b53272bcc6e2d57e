// Reads runs of beats from external memory, in order, ahead of whoever takes them. Room for a burst is set aside before
// it is asked for, so the read channel never waits. No burst crosses a 4 KiB boundary (the AXI rule).
module axi_reader #(parameter int BYTES = 64, DEPTH = 64) (
  input  logic clk, reset,
  input  logic job,                       // with job_ready: read `beats` beats from `start`
  output logic job_ready,
  input  logic [63:0] start,
  input  logic [31:0] beats,
  axi_read.reader bus,
  output logic valid,
  output logic [BYTES*8-1:0] data,
  input  logic pop,
  output logic [15:0] count
);
  import overlay_pkg::BURST;
  localparam int SHIFT = $clog2(BYTES);
  localparam int PAGE = 4096 / BYTES;
  localparam int LONGEST = BURST < DEPTH ? BURST : DEPTH;
  logic [31:0] left;
  logic [63:0] address;
  logic [15:0] promised;                  // words asked for or held
  logic unused_full;

  wire [31:0] to_page = 32'(PAGE) - 32'((address >> SHIFT) & 64'(PAGE - 1));
  wire [31:0] limit = to_page < 32'(LONGEST) ? to_page : 32'(LONGEST);
  wire [31:0] length = left < limit ? left : limit;
  wire ask = left != 0 && promised + 16'(length) <= 16'(DEPTH);
  wire move = bus.arvalid && bus.arready;

  assign job_ready = left == 0;
  always_ff @(posedge clk) begin
    if (move) bus.arvalid <= 1'b0;
    if (ask && (!bus.arvalid || bus.arready)) begin
      bus.arvalid <= 1'b1;
      bus.araddr <= address;
      bus.arlen <= 8'(length - 1);
      address <= address + (64'(length) << SHIFT);
      left <= left - length;
    end else if (job && job_ready) begin
      address <= start;
      left <= beats;
    end
    promised <= promised + (ask && (!bus.arvalid || bus.arready) ? 16'(length) : 16'd0) - 16'(pop);
    if (reset) begin
      bus.arvalid <= 1'b0;
      left <= '0;
      promised <= '0;
    end
  end
  fifo #(.WIDTH(BYTES*8), .DEPTH(DEPTH)) words (
    .clk, .reset, .push(bus.rvalid), .in(bus.rdata), .full(unused_full), .valid, .out(data), .pop, .count
  );
endmodule
