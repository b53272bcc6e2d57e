// Residual additions of LANES bytes (AddRule of fpga_ops/ir/network.py), four cycles long; `add` off hands y through.
module residual_lanes #(parameter int LANES = 1, MUL_BITS = 31) (
  input  logic clk,
  input  logic add,
  input  logic [LANES*8-1:0] y, r,
  input  logic [31:0] first, second,
  input  logic [63:0] offset,
  input  logic [5:0] shift,
  input  logic [7:0] tie,
  input  logic increment,
  input  logic [7:0] low, high,
  output logic [LANES*8-1:0] out
);
  localparam int SUM = MUL_BITS + 8, COARSE = overlay_pkg::COARSE;
  logic [LANES*SUM-1:0] from_y, from_r, next_y, next_r;
  logic [LANES*64-1:0] v, next_v;
  logic [LANES*COARSE-1:0] near, next_near;
  logic [LANES*8-1:0] next_out, plain1, plain2, plain3;
  wire unused_top = ^{first, second};
  always_comb begin
    next_y = from_y;
    next_r = from_r;
    next_v = v;
    next_near = near;
    next_out = plain3;
    if (add) for (int i = 0; i < LANES; i++) begin
      next_y[i*SUM +: SUM] = SUM'(y[i*8 +: 8]) * SUM'(first[MUL_BITS-1:0]);
      next_r[i*SUM +: SUM] = SUM'(r[i*8 +: 8]) * SUM'(second[MUL_BITS-1:0]);
      next_v[i*64 +: 64] = 64'(from_y[i*SUM +: SUM]) + 64'(from_r[i*SUM +: SUM]) + offset;
      next_near[i*COARSE +: COARSE] = overlay_pkg::coarse(v[i*64 +: 64], shift, tie);
      next_out[i*8 +: 8] = overlay_pkg::fine(near[i*COARSE +: COARSE], shift[3:0], increment, low, high);
    end
  end
  always_ff @(posedge clk) begin
    from_y <= next_y;
    from_r <= next_r;
    v <= next_v;
    near <= next_near;
    {plain3, plain2, plain1} <= {plain2, plain1, y};
    out <= next_out;
  end
endmodule
