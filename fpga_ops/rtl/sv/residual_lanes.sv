// Residual additions of LANES bytes (AddRule of fpga_ops/ir/network.py), four cycles long; `add` off hands y through.
module residual_lanes import overlay_pkg::*; #(parameter int LANES = 1, MUL_BITS = 31) (
  input  logic clk,
  input  logic add,
  input  logic [LANES-1:0][7:0] y, r,
  input  logic [31:0] first, second,
  input  logic [63:0] offset,
  input  logic [5:0] shift,
  input  logic [7:0] tie,
  input  logic increment,
  input  logic [7:0] low, high,
  output logic [LANES-1:0][7:0] out
);
  typedef logic [MUL_BITS+7:0] product_t;
  product_t from_y [LANES], from_r [LANES], next_y [LANES], next_r [LANES];
  logic [63:0] v [LANES], next_v [LANES];
  coarse_t near [LANES], next_near [LANES];
  logic [LANES-1:0][7:0] next_out, plain [1:3];
  wire unused_top = ^{first, second};
  always_comb for (int i = 0; i < LANES; i++) begin
    next_y[i] = '0;
    next_r[i] = '0;
    next_v[i] = '0;
    next_near[i] = '0;
    next_out[i] = plain[3][i];
    if (add) begin
      next_y[i] = product_t'(y[i]) * product_t'(first[MUL_BITS-1:0]);
      next_r[i] = product_t'(r[i]) * product_t'(second[MUL_BITS-1:0]);
      next_v[i] = 64'(from_y[i]) + 64'(from_r[i]) + offset;
      next_near[i] = coarse(v[i], shift, tie);
      next_out[i] = fine(near[i], shift[3:0], increment, low, high);
    end
  end
  always_ff @(posedge clk) begin
    from_y <= next_y;
    from_r <= next_r;
    v <= next_v;
    near <= next_near;
    plain[1] <= y;
    plain[2] <= plain[1];
    plain[3] <= plain[2];
    out <= next_out;
  end
endmodule
