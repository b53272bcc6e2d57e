// From accumulators to bytes (Requantise of fpga_ops/network.py), four cycles later: COLUMNS pixels of each of LANES
// channels, which have constants of their own: {spare, shift, multiplier, bias}, a lane of par_t in overlay.h.
module requant_lanes #(parameter int COLUMNS = 1, LANES = 1) (
  input  logic clk,
  input  logic [COLUMNS-1:0][LANES-1:0][31:0] acc,
  input  logic [LANES-1:0][63:0] constants,
  input  logic [3:0] pre_shift,
  input  logic [7:0] low, high,
  output logic [COLUMNS-1:0][LANES-1:0][7:0] out
);
  logic signed [31:0] biased [COLUMNS][LANES], next_biased [COLUMNS][LANES];
  logic signed [15:0] t [COLUMNS][LANES], next_t [COLUMNS][LANES];
  logic signed [11:0] u [COLUMNS][LANES], next_u [COLUMNS][LANES];   // of the product, 20 bits down
  logic [COLUMNS-1:0][LANES-1:0][7:0] next_out;
  logic [LANES-1:0][63:0] constants1, constants2;
  wire unused_spare = ^{constants1, constants2};
  always_comb for (int p = 0; p < COLUMNS; p++) for (int c = 0; c < LANES; c++) begin
    logic signed [31:0] moved;
    next_biased[p][c] = $signed(acc[p][c] + constants[c][31:0]);
    moved = (biased[p][c] << pre_shift) >>> constants1[c][52:48];
    next_t[p][c] = moved > 32'sd32767 ? 16'sd32767 : moved < -32'sd32768 ? -16'sd32768 : 16'(moved);
    next_u[p][c] = 12'((32'(t[p][c]) * 32'($signed(constants2[c][47:32]))) >>> 20);
    if (u[p][c] < $signed({4'b0, low})) next_out[p][c] = low;
    else next_out[p][c] = u[p][c] > $signed({4'b0, high}) ? high : u[p][c][7:0];
  end
  always_ff @(posedge clk) begin
    biased <= next_biased;
    t <= next_t;
    u <= next_u;
    out <= next_out;
    constants1 <= constants;
    constants2 <= constants1;
  end
endmodule
