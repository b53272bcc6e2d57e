// Dot products of VEC activations (unsigned) with the weights of two output channels, on DSP48E2: a block multiplies
// (w1 2^18 + w0) by a. Four products of 8 x 8 bits sum within 18 bits, so chains of four keep both sums apart, and what
// the low one borrowed from the high one is its sign: one correction a chain. 3 + CHAIN + ceil(log2(chains)) cycles.
module dot_pair #(
  parameter int VEC = 32, localparam int CHAIN = 4, CHAINS = (VEC + CHAIN - 1) / CHAIN, LEVELS = $clog2(CHAINS)
) (
  input  logic clk,
  input  logic [VEC*8-1:0] act,
  input  logic [VEC*8-1:0] weight0, weight1,
  output logic [47:0] dot                 // of weight0, below that of weight1
);
  localparam int WIDE = 1 << LEVELS;
  logic [WIDE*24-1:0] low, high;
  for (genvar i = 0; i < WIDE; i++) begin : chain
    if (i < CHAINS) begin : used
      logic [CHAIN*48-1:0] cascade;
      logic [47:0] sum;
      wire unused_last = ^cascade[CHAIN*48-1 -: 48];
      for (genvar j = 0; j < CHAIN; j++) begin : block
        localparam int V = i * CHAIN + j;
        logic [7:0] a, w0, w1;
        logic [47:0] p;
        if (V < VEC) begin : product
          delay #(.WIDTH(24), .CYCLES(j)) skew (
            .clk(clk), .in({act[V*8 +: 8], weight0[V*8 +: 8], weight1[V*8 +: 8]}), .out({a, w0, w1})
          );
        end else begin : padding
          assign {a, w0, w1} = '0;
        end
        if (j == 0) begin : first
          dsp48e2_mac #(.FIRST(1'b1)) mac (
            .clk(clk), .a({w1[7], w1, 18'b0}), .d({{19{w0[7]}}, w0}), .b({10'b0, a}), .pcin(48'b0), .p(p),
            .pcout(cascade[47:0])
          );
        end else begin : more
          dsp48e2_mac mac (
            .clk(clk), .a({w1[7], w1, 18'b0}), .d({{19{w0[7]}}, w0}), .b({10'b0, a}), .pcin(cascade[(j-1)*48 +: 48]),
            .p(p), .pcout(cascade[j*48 +: 48])
          );
        end
        if (j == CHAIN - 1) begin : last
          assign sum = p;
        end else begin : inner
          wire unused_p = ^p;
        end
      end
      wire unused_top = ^sum[47:37];
      always_ff @(posedge clk) begin
        low[i*24 +: 24] <= {{6{sum[17]}}, sum[17:0]};
        high[i*24 +: 24] <= {{5{sum[36]}}, sum[36:18]} + {23'b0, sum[17]};
      end
    end else begin : none
      assign low[i*24 +: 24] = '0;
      assign high[i*24 +: 24] = '0;
    end
  end
  adder_tree #(.COUNT(WIDE), .WIDTH(24)) lows (.clk(clk), .in(low), .out(dot[23:0]));
  adder_tree #(.COUNT(WIDE), .WIDTH(24)) highs (.clk(clk), .in(high), .out(dot[47:24]));
endmodule
