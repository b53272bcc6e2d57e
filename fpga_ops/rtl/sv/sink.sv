// Writes what STORE layers send from `base` on, each word in STORED bytes, a beat a cycle at best. `done` after the last
// write of a batch was acknowledged.
module sink import overlay_pkg::*; #(parameter int WORD = 64, STORED = 64) (
  input  logic clk, reset,
  input  logic layer_valid,
  input  layer_t layer,
  output logic layer_pop,
  input  logic [63:0] base,
  input  logic word_valid,
  output logic word_pop,
  input  logic [WORD*8-1:0] word,
  output logic awvalid,
  input  logic awready,
  output logic [63:0] awaddr,
  output logic wvalid,
  input  logic wready,
  output logic [PORT*8-1:0] wdata,
  input  logic bvalid,
  output logic stored,                    // a STORE's last word was taken
  output logic done
);
  wire wanted = layer[F_OP] == 32'(OP_STORE);
  wire ending = layer_valid && layer[F_OP] == 32'(OP_END);
  logic [31:0] left, next_beat, unacknowledged;
  logic running, beat_valid, beat_ready, ready, moved;
  logic [PORT*8-1:0] beat;

  assign word_pop = running && word_valid && ready;
  assign stored = word_pop && left == 32'd1;
  // an END stays until every byte is out and acknowledged
  assign done = ending && !running && !beat_valid && !awvalid && !wvalid && unacknowledged == 0;
  assign layer_pop = layer_valid && !running && (!ending || done);
  assign beat_ready = (!awvalid || awready) && (!wvalid || wready);
  assign moved = beat_valid && beat_ready;
  always_ff @(posedge clk) begin
    if (layer_pop && wanted) begin
      running <= 1'b1;
      left <= layer[F_OUTPUTS] * layer[F_ACTS];
    end else if (word_pop) begin
      left <= left - 32'd1;
      if (stored) running <= 1'b0;
    end
    if (awready) awvalid <= 1'b0;
    if (wready) wvalid <= 1'b0;
    if (moved) begin
      awvalid <= 1'b1;
      wvalid <= 1'b1;
      awaddr <= base + 64'(next_beat) * PORT;
      wdata <= beat;
      next_beat <= next_beat + 32'd1;
    end
    unacknowledged <= unacknowledged + 32'(moved) - 32'(bvalid);
    if (reset || done) begin
      next_beat <= '0;
      running <= 1'b0;
      awvalid <= 1'b0;
      wvalid <= 1'b0;
      unacknowledged <= '0;
    end
  end
  gearbox #(.IN(STORED), .OUT(PORT), .UNIT(PORT)) narrow (
    .clk, .reset, .in_valid(running && word_valid), .in_ready(ready), .in({{(STORED-WORD)*8{1'b0}}, word}),
    .out_valid(beat_valid), .out_ready(beat_ready), .out(beat)
  );
endmodule
