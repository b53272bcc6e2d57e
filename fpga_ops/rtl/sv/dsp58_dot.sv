// What a DSP58 in INT8 mode (DSPFP's sibling of Versal: three 9 x 8-bit products) computes, with its registers:
// p = pcin + a0 b0 + a1 b1 + a2 b2, three cycles from a and b, one from pcin.
module dsp58_dot (
  input  logic clk,
  input  logic [2:0][8:0] a,
  input  logic [2:0][7:0] b,
  input  logic [23:0] pcin,
  output logic [23:0] p
);
  logic [2:0][8:0] a1;
  logic [2:0][7:0] b1;
  logic signed [18:0] m, sum;
  always_comb begin
    sum = '0;
    for (int i = 0; i < 3; i++) sum = sum + 19'($signed(a1[i])) * 19'($signed(b1[i]));
  end
  always_ff @(posedge clk) begin
    a1 <= a;
    b1 <= b;
    m <= sum;
    p <= pcin + {{5{m[18]}}, m};
  end
endmodule
