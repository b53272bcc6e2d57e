// The sum of COUNT (a power of two) signed numbers, log2(COUNT) cycles later.
module adder_tree #(parameter int COUNT = 8, WIDTH = 24) (
  input  logic clk,
  input  logic [COUNT-1:0][WIDTH-1:0] in,
  output logic [WIDTH-1:0] out
);
  if (COUNT == 1) begin : leaf
    assign out = in[0];
    wire unused_clk = clk;
  end else begin : node
    logic [COUNT/2-1:0][WIDTH-1:0] sums;
    always_ff @(posedge clk)
      for (int i = 0; i < COUNT / 2; i++) sums[i] <= in[2*i] + in[2*i+1];
    adder_tree #(.COUNT(COUNT / 2), .WIDTH(WIDTH)) rest (.clk, .in(sums), .out);
  end
endmodule
