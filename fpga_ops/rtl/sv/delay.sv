// A word, CYCLES later.
module delay #(parameter int WIDTH = 8, CYCLES = 1) (
  input  logic clk,
  input  logic [WIDTH-1:0] in,
  output logic [WIDTH-1:0] out
);
  if (CYCLES == 0) begin : none
    assign out = in;
    wire unused_clk = clk;
  end else begin : some
    logic [WIDTH-1:0] line [CYCLES];
    assign out = line[CYCLES-1];
    always_ff @(posedge clk) begin
      line[0] <= in;
      for (int i = 1; i < CYCLES; i++) line[i] <= line[i-1];
    end
  end
endmodule
