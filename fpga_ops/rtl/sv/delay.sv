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
    logic [CYCLES*WIDTH-1:0] line;
    assign out = line[CYCLES*WIDTH-1 -: WIDTH];
    always_ff @(posedge clk) line <= (CYCLES*WIDTH)'({line, in});
  end
endmodule
