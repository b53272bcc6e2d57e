// Residual additions of LANES bytes (AddRule of fpga_ops/network.py), three cycles long; `add` off hands y through.
module residual_lanes #(parameter int LANES = 1) (
  input  logic clk,
  input  logic add,
  input  logic [LANES-1:0][7:0] y, r,
  input  logic [15:0] first, second,
  input  logic signed [15:0] offset,
  input  logic [3:0] shift,
  input  logic [7:0] low, high,
  output logic [LANES-1:0][7:0] out
);
  logic [15:0] from_y [LANES], from_r [LANES], next_y [LANES], next_r [LANES];
  logic signed [19:0] sum [LANES], next_sum [LANES];
  logic [LANES-1:0][7:0] plain, plain2, next_out;
  always_comb for (int i = 0; i < LANES; i++) begin
    logic signed [19:0] shifted;
    next_y[i] = 16'((24'(y[i]) * 24'(first)) >> 8);
    next_r[i] = 16'((24'(r[i]) * 24'(second)) >> 8);
    next_sum[i] = $signed({4'b0, from_y[i]}) + $signed({4'b0, from_r[i]}) + 20'(offset);
    shifted = sum[i] >>> shift;
    if (!add) next_out[i] = plain2[i];
    else if (shifted < $signed({12'b0, low})) next_out[i] = low;
    else next_out[i] = shifted > $signed({12'b0, high}) ? high : 8'(shifted);
  end
  always_ff @(posedge clk) begin
    from_y <= next_y;
    from_r <= next_r;
    sum <= next_sum;
    plain <= y;
    plain2 <= plain;
    out <= next_out;
  end
endmodule
