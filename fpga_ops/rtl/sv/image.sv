// Reads what LOAD layers bring, one stream of 64-byte words through all runs, and makes words of CW channels of PIX
// pixels of it: from raw rows of bytes (`former`, `stacker`), or packed by the host, in whole 64-byte words.
module image import overlay_pkg::*; #(
  parameter int PIX = 7, VEC = 32, CW = 32, STACK = 0,
  localparam int WORD = PIX * CW, PACKED = (WORD + PORT - 1) / PORT * PORT
) (
  input  logic clk, reset,
  input  logic layer_valid,
  input  layer_t next_layer,
  output logic layer_pop,
  input  logic [63:0] base,
  axi_read.reader bus,
  output logic valid,
  output logic [WORD*8-1:0] word,
  input  logic pop,
  output logic [15:0] count
);
  layer_t d;
  logic forming, ready, beat_valid, beat_pop, packed_ready, packed_valid, formed_ready, formed_valid, formed_pop;
  logic stacked_valid, stacked_done;
  logic [31:0] asked, left;               // words asked for since the start; words of this LOAD to come
  logic [PORT*8-1:0] beat;
  logic [PACKED*8-1:0] packed_word;
  logic [WORD*8-1:0] formed_word, stacked_word;
  wire unused_padding = ^packed_word;
  wire wanted = next_layer[F_OP] == 32'(OP_LOAD);
  wire raw = d[F_BYTE_STEP] != 0;
  wire begin_load = layer_valid && wanted && !forming && ready;

  assign layer_pop = layer_valid && !forming && (!wanted || ready);
  assign beat_pop = forming && beat_valid && left != 0 && (raw ? formed_ready : packed_ready);
  assign valid = raw ? stacked_valid : packed_valid;
  assign word = raw ? stacked_word : packed_word[WORD*8-1:0];
  always_ff @(posedge clk) begin
    if (begin_load) begin
      d <= next_layer;
      forming <= 1'b1;
      asked <= asked + next_layer[F_LOAD_SIZE];
      left <= next_layer[F_LOAD_SIZE];
    end else if (forming && left == 0 && (raw ? stacked_done : !packed_valid)) forming <= 1'b0;
    if (beat_pop) left <= left - 32'd1;
    if (reset) begin
      forming <= 1'b0;
      asked <= '0;
      left <= '0;
    end
  end
  axi_reader #(.BYTES(PORT), .DEPTH(4 * BURST)) reader (
    .clk, .reset, .job(layer_valid && wanted && !forming), .job_ready(ready), .start(base + 64'(asked) * PORT),
    .beats(next_layer[F_LOAD_SIZE]), .bus, .valid(beat_valid),
    .data(beat), .pop(beat_pop), .count
  );
  gearbox #(.IN(PORT), .OUT(PACKED), .UNIT(PORT)) collect (
    .clk, .reset, .in_valid(beat_pop && !raw), .in_ready(packed_ready), .in(beat), .out_valid(packed_valid),
    .out_ready(pop && !raw), .out(packed_word)
  );
  former #(.PIX(PIX), .VEC(VEC), .CW(CW)) forms (
    .clk, .start(begin_load), .stop(reset), .layer(begin_load ? next_layer : d), .in_valid(beat_pop && raw),
    .in_ready(formed_ready), .in(beat), .out_valid(formed_valid), .out(formed_word), .out_ready(formed_pop)
  );
  stacker #(.PIX(PIX), .CW(CW), .COLS(STACK)) stacks (
    .clk, .start(begin_load), .stop(reset), .layer(begin_load ? next_layer : d), .in_valid(formed_valid),
    .in_ready(formed_pop), .in(formed_word), .out_valid(stacked_valid), .out_ready(pop && raw), .out(stacked_word),
    .done(stacked_done)
  );
endmodule
