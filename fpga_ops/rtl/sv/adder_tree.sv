// The sum of COUNT (a power of two) signed numbers, log2(COUNT) cycles later.
module adder_tree #(parameter int COUNT = 8, WIDTH = 24, localparam int LEVELS = $clog2(COUNT)) (
  input  logic clk,
  input  logic [COUNT*WIDTH-1:0] in,
  output logic [WIDTH-1:0] out
);
  // level l holds COUNT >> l numbers; one after the other, the first level's first
  logic [2*COUNT*WIDTH-1:0] level;
  wire unused_clk = clk;
  wire unused_top = ^level[2*COUNT*WIDTH-1:(2*COUNT-1)*WIDTH];
  assign level[COUNT*WIDTH-1:0] = in;
  assign level[2*COUNT*WIDTH-1:(2*COUNT-1)*WIDTH] = '0;
  assign out = level[(2*COUNT-2)*WIDTH +: WIDTH];
  for (genvar l = 0; l < LEVELS; l++) begin : levels
    localparam int FROM = 2 * COUNT - (2 * COUNT >> l), TO = 2 * COUNT - (COUNT >> l);
    for (genvar i = 0; i < (COUNT >> (l + 1)); i++) begin : sums
      always_ff @(posedge clk)
        level[(TO+i)*WIDTH +: WIDTH] <= level[(FROM+2*i)*WIDTH +: WIDTH] + level[(FROM+2*i+1)*WIDTH +: WIDTH];
    end
  end
endmodule
