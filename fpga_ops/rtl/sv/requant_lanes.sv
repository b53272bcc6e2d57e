// From accumulators to bytes (Requantise of fpga_ops/ir/network.py), six cycles later: COLUMNS pixels of each of LANES
// channels, which have constants of their own. The accumulator is made unsigned by 2^(ACC_BITS - 1), whose product the
// host has taken off the offset, so one unsigned multiplier does: 27 x 27 bits are two blocks of an FPGA.
module requant_lanes #(
  parameter int COLUMNS = 1, LANES = 1, ACC_BITS = 32, MUL_BITS = 31, localparam int ALL = COLUMNS * LANES
) (
  input  logic clk, valid,
  input  logic [ALL*32-1:0] acc,
  input  logic [LANES*64-1:0] offset,
  input  logic [LANES*32-1:0] multiplier,
  input  logic [LANES*8-1:0] shift, tie,
  input  logic increment,
  input  logic [7:0] low, high,
  output logic [ALL*8-1:0] out
);
  localparam int SUM = ACC_BITS + MUL_BITS, COARSE = overlay_pkg::COARSE;
  logic [ALL*ACC_BITS-1:0] a, next_a;
  logic [ALL*SUM-1:0] product, next_product, held;
  logic [ALL*64-1:0] v, next_v;
  logic [ALL*COARSE-1:0] near, next_near;
  logic [ALL*8-1:0] next_out;
  // constants with the data of their cycle
  logic [LANES*MUL_BITS-1:0] multiplier1;
  logic [LANES*64-1:0] offset1, offset2, offset3;
  logic [LANES*8-1:0] shift1, shift2, shift3, shift4, shift5, tie1, tie2, tie3, tie4;
  logic [5:1] has;
  wire unused_top = ^{acc, multiplier, shift4, shift5};
  always_comb begin
    next_a = a;
    next_product = product;
    next_v = v;
    next_near = near;
    next_out = out;
    if (valid) for (int i = 0; i < ALL; i++)
      next_a[i*ACC_BITS +: ACC_BITS] = acc[i*32 +: ACC_BITS] ^ {1'b1, {(ACC_BITS-1){1'b0}}};
    if (has[1]) for (int p = 0; p < COLUMNS; p++) for (int c = 0; c < LANES; c++)
      next_product[(p*LANES+c)*SUM +: SUM] =
        SUM'(a[(p*LANES+c)*ACC_BITS +: ACC_BITS]) * SUM'(multiplier1[c*MUL_BITS +: MUL_BITS]);
    if (has[3]) for (int p = 0; p < COLUMNS; p++) for (int c = 0; c < LANES; c++)
      next_v[(p*LANES+c)*64 +: 64] = 64'(held[(p*LANES+c)*SUM +: SUM]) + offset3[c*64 +: 64];
    if (has[4]) for (int p = 0; p < COLUMNS; p++) for (int c = 0; c < LANES; c++)
      next_near[(p*LANES+c)*COARSE +: COARSE] =
        overlay_pkg::coarse(v[(p*LANES+c)*64 +: 64], shift4[c*8 +: 6], tie4[c*8 +: 8]);
    if (has[5]) for (int p = 0; p < COLUMNS; p++) for (int c = 0; c < LANES; c++)
      next_out[(p*LANES+c)*8 +: 8] =
        overlay_pkg::fine(near[(p*LANES+c)*COARSE +: COARSE], shift5[c*8 +: 4], increment, low, high);
  end
  always_ff @(posedge clk) begin
    has <= {has[4:1], valid};
    a <= next_a;
    product <= next_product;
    held <= product;                      // a multiplier of several blocks keeps it
    v <= next_v;
    near <= next_near;
    out <= next_out;
    for (int c = 0; c < LANES; c++) multiplier1[c*MUL_BITS +: MUL_BITS] <= multiplier[c*32 +: MUL_BITS];
    offset1 <= offset;
    offset2 <= offset1;
    offset3 <= offset2;
    {shift5, shift4, shift3, shift2, shift1} <= {shift4, shift3, shift2, shift1, shift};
    {tie4, tie3, tie2, tie1} <= {tie3, tie2, tie1, tie};
  end
endmodule
