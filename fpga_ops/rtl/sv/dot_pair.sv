// Dot products of VEC activations (unsigned) with the weights of two output channels, on DSP48E2: a block multiplies
// (w1 2^18 + w0) by a. Four products of 8 x 8 bits sum within 18 bits, so chains of four keep both sums apart, and what
// the low one borrowed from the high one is its sign: one correction a chain. 3 + CHAIN + ceil(log2(chains)) cycles.
module dot_pair #(
  parameter int VEC = 32, localparam int CHAIN = 4, CHAINS = (VEC + CHAIN - 1) / CHAIN, LEVELS = $clog2(CHAINS)
) (
  input  logic clk,
  input  logic [VEC-1:0][7:0] act,
  input  logic [VEC-1:0][7:0] weight0, weight1,
  output logic [1:0][23:0] dot
);
  localparam int WIDE = 1 << LEVELS;
  logic [WIDE-1:0][23:0] low, high;
  for (genvar i = 0; i < WIDE; i++) begin : chain
    if (i < CHAINS) begin : used
      logic [CHAIN:0][47:0] cascade, sum;
      wire unused_last = ^cascade[CHAIN];
      assign cascade[0] = '0;
      assign sum[0] = '0;
      for (genvar j = 0; j < CHAIN; j++) begin : block
        localparam int V = i * CHAIN + j;
        logic [7:0] a, w0, w1;
        if (V < VEC) begin : product
          delay #(.WIDTH(24), .CYCLES(j)) skew (.clk, .in({act[V], weight0[V], weight1[V]}), .out({a, w0, w1}));
        end else begin : padding
          assign {a, w0, w1} = '0;
        end
        dsp48e2_mac #(.FIRST(j == 0)) mac (
          .clk, .a({{1{w1[7]}}, w1, 18'b0}), .d({{19{w0[7]}}, w0}), .b({10'b0, a}), .pcin(cascade[j]),
          .p(sum[j+1]), .pcout(cascade[j+1])
        );
      end
      always_ff @(posedge clk) begin
        low[i] <= {{6{sum[CHAIN][17]}}, sum[CHAIN][17:0]};
        high[i] <= {{5{sum[CHAIN][36]}}, sum[CHAIN][36:18]} + 24'(sum[CHAIN][17]);
      end
    end else begin : none
      assign low[i] = '0;
      assign high[i] = '0;
    end
  end
  adder_tree #(.COUNT(WIDE), .WIDTH(24)) lows (.clk, .in(low), .out(dot[0]));
  adder_tree #(.COUNT(WIDE), .WIDTH(24)) highs (.clk, .in(high), .out(dot[1]));
endmodule
