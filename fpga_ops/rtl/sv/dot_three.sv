// A dot product of VEC activations (unsigned) with one output channel's weights, on DSP58 in its INT8 mode: a block sums
// three products of a signed 9-bit and a signed 8-bit number and adds the cascade. 2 + ceil(VEC / 3) cycles.
module dot_three #(parameter int VEC = 32, localparam int BLOCKS = (VEC + 2) / 3) (
  input  logic clk,
  input  logic [VEC-1:0][7:0] act, weight,
  output logic [23:0] dot
);
  logic [BLOCKS:0][23:0] cascade;
  assign cascade[0] = '0;
  assign dot = cascade[BLOCKS];
  for (genvar i = 0; i < BLOCKS; i++) begin : block
    logic [2:0][8:0] a;
    logic [2:0][7:0] w;
    for (genvar j = 0; j < 3; j++) begin : operand
      if (3 * i + j < VEC) begin : product
        assign a[j][8] = 1'b0;
        delay #(.WIDTH(16), .CYCLES(i)) skew (
          .clk, .in({act[3*i+j], weight[3*i+j]}), .out({a[j][7:0], w[j]})
        );
      end else begin : padding
        assign {a[j], w[j]} = '0;
      end
    end
    dsp58_dot mac (.clk, .a, .b(w), .pcin(cascade[i]), .p(cascade[i+1]));
  end
endmodule
