// Words of IN bytes to words of OUT bytes, the first byte lowest; both are whole numbers of UNIT bytes.
module gearbox #(parameter int IN = 64, OUT = 64, UNIT = 64) (
  input  logic clk, reset,
  input  logic in_valid,
  output logic in_ready,
  input  logic [IN*8-1:0] in,
  output logic out_valid,
  input  logic out_ready,
  output logic [OUT*8-1:0] out
);
  localparam int I = IN / UNIT, O = OUT / UNIT, HOLD = 2 * ((I > O ? I : O)) + O;
  logic [HOLD*UNIT*8-1:0] held, next_held;
  logic [15:0] have, next_have;
  wire take = in_valid && in_ready;
  wire give = out_valid && out_ready;

  assign in_ready = have <= 16'(HOLD - I);
  assign out_valid = have >= 16'(O);
  assign out = held[OUT*8-1:0];
  always_comb begin
    next_held = give ? held >> (OUT * 8) : held;
    next_have = give ? have - 16'(O) : have;
    if (take) begin
      for (int at = 0; at <= HOLD - I; at++)
        if (next_have == 16'(at)) next_held[at*UNIT*8 +: IN*8] = in;
      next_have = next_have + 16'(I);
    end
  end
  always_ff @(posedge clk) begin
    held <= next_held;
    have <= reset ? '0 : next_have;
  end
endmodule
