// From accumulators to bytes (Requantise of fpga_ops/ir/network.py), LATENCY cycles later: COLUMNS pixels of each of LANES
// channels, which have constants of their own. The accumulator is made unsigned by 2^(ACC_BITS - 1), whose product the
// host has taken off the offset, so one unsigned multiplier does: 27 x 27 bits are two blocks of an FPGA.
module requant_lanes import overlay_pkg::*; #(
  parameter int COLUMNS = 1, LANES = 1, ACC_BITS = 32, MUL_BITS = 31
) (
  input  logic clk,
  input  logic [COLUMNS-1:0][LANES-1:0][31:0] acc,
  input  rule_t [LANES-1:0] rules,
  input  logic increment,
  input  logic [7:0] low, high,
  output logic [COLUMNS-1:0][LANES-1:0][7:0] out
);
  localparam int SIGN = ACC_BITS - 1;
  typedef logic [ACC_BITS-1:0] sum_t;
  typedef logic [ACC_BITS+MUL_BITS-1:0] product_t;
  sum_t a [COLUMNS][LANES], next_a [COLUMNS][LANES];
  product_t product [COLUMNS][LANES], next_product [COLUMNS][LANES], held [COLUMNS][LANES];
  logic [63:0] v [COLUMNS][LANES], next_v [COLUMNS][LANES];
  coarse_t near [COLUMNS][LANES], next_near [COLUMNS][LANES];
  logic [COLUMNS-1:0][LANES-1:0][7:0] next_out;
  rule_t [LANES-1:0] rule [1:5];          // with the data of that cycle
  wire unused_rules = ^{rule[1], rule[2], rule[3], rule[4], rule[5]};
  wire unused_acc = ^acc;
  always_comb for (int p = 0; p < COLUMNS; p++) for (int c = 0; c < LANES; c++) begin
    next_a[p][c] = {!acc[p][c][SIGN], acc[p][c][SIGN-1:0]};
    next_product[p][c] = product_t'(a[p][c]) * product_t'(rule[1][c].multiplier[MUL_BITS-1:0]);
    next_v[p][c] = 64'(held[p][c]) + rule[3][c].offset;
    next_near[p][c] = coarse(v[p][c], rule[4][c].shift[5:0], rule[4][c].tie);
    next_out[p][c] = fine(near[p][c], rule[5][c].shift[3:0], increment, low, high);
  end
  always_ff @(posedge clk) begin
    a <= next_a;
    product <= next_product;
    held <= product;                      // a multiplier of several blocks keeps it
    v <= next_v;
    near <= next_near;
    out <= next_out;
    rule[1] <= rules;
    for (int i = 2; i <= 5; i++) rule[i] <= rule[i-1];
  end
endmodule
