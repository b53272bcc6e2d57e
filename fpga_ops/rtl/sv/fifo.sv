// A queue whose head is visible before it is taken. The read is synchronous, so that deep ones become block memory;
// a word is visible two cycles after it came. Holds DEPTH + 1 words; `count` is how many it has.
module fifo #(parameter int WIDTH = 8, DEPTH = 16) (
  input  logic clk, reset,
  input  logic push,
  input  logic [WIDTH-1:0] in,
  output logic full,
  output logic valid,
  output logic [WIDTH-1:0] out,
  input  logic pop,
  output logic [15:0] count
);
  localparam int BITS = DEPTH > 1 ? $clog2(DEPTH) : 1;
  localparam logic [BITS-1:0] LAST = BITS'(DEPTH - 1);
  logic [WIDTH-1:0] memory [DEPTH];
  logic [BITS-1:0] head, tail;
  logic [15:0] stored;
  wire advance = stored != 0 && (!valid || pop);

  assign full = stored == 16'(DEPTH);
  assign count = stored + 16'(valid);
  always_ff @(posedge clk) begin
    if (push) memory[tail] <= in;
    if (advance) out <= memory[head];
    if (push) tail <= tail == LAST ? '0 : tail + 1'b1;
    if (advance) head <= head == LAST ? '0 : head + 1'b1;
    stored <= stored + 16'(push) - 16'(advance);
    if (advance) valid <= 1'b1;
    else if (pop) valid <= 1'b0;
    if (reset) begin
      head <= '0;
      tail <= '0;
      stored <= '0;
      valid <= 1'b0;
    end
  end
endmodule
