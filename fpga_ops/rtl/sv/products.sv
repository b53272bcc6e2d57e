// All multipliers behind one face: PIX x LANE dot products of VEC unsigned activations and signed weights,
// latency(FORM, VEC) cycles later. FORM says what makes them; the sums are the same.
module products import overlay_pkg::*; #(
  parameter int VEC = 32, LANE = 64, PIX = 7, FORM = PLAIN
) (
  input  logic clk, valid,
  input  logic [PIX-1:0][VEC-1:0][7:0] act,
  input  logic [LANE-1:0][VEC-1:0][7:0] weight,
  output logic [23:0] dot [PIX][LANE]
);
  if (FORM == PLAIN) begin : plain
    // unpacked copies: a simulator runs through them as through arrays of bytes
    logic [7:0] a [PIX][VEC];
    logic signed [7:0] w [LANE][VEC];
    logic [23:0] next [PIX][LANE];
    always_comb begin
      for (int p = 0; p < PIX; p++) for (int v = 0; v < VEC; v++) a[p][v] = act[p][v];
      for (int l = 0; l < LANE; l++) for (int v = 0; v < VEC; v++) w[l][v] = $signed(weight[l][v]);
      for (int p = 0; p < PIX; p++) for (int l = 0; l < LANE; l++) begin
        int sum;
        sum = 0;
        for (int v = 0; v < VEC; v++) sum += int'({24'b0, a[p][v]}) * int'(w[l][v]);
        next[p][l] = sum[23:0];
      end
    end
    always_ff @(posedge clk) if (valid) dot <= next;
  end else begin : blocks
    wire unused_valid = valid;
    for (genvar p = 0; p < PIX; p++) begin : pixel
      if (FORM == DSP48E2) begin : pairs
        for (genvar l = 0; l < LANE; l += 2) begin : lanes
          logic [47:0] both;
          assign dot[p][l] = both[23:0];
          assign dot[p][l+1] = both[47:24];
          dot_pair #(.VEC(VEC)) one (.clk, .act(act[p]), .weight0(weight[l]), .weight1(weight[l+1]), .dot(both));
        end
      end else begin : threes  // DSP58
        for (genvar l = 0; l < LANE; l++) begin : lanes
          dot_three #(.VEC(VEC)) one (.clk, .act(act[p]), .weight(weight[l]), .dot(dot[p][l]));
        end
      end
    end
  end
endmodule
