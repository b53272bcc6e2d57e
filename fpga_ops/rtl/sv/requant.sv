// From accumulators to bytes: CW channels of PIX pixels a cycle. A global pool leaves one sum for each of PIX columns,
// which are added up here. Results go to a queue of QUEUE places, each given away when a result begins.
module requant import overlay_pkg::*; #(
  parameter int LANE = 64, CW = 32, PIX = 7, ACC_BITS = 32, MUL_BITS = 31, QUEUE = 16,
  localparam int WORDS = LANE / CW, LANE_BYTES = 16
) (
  input  logic clk, reset,
  input  logic layer_valid,
  input  layer_t next_layer,
  output logic layer_pop,
  input  logic block_valid,
  input  logic [LANE*LANE_BYTES*8-1:0] block,
  output logic block_pop,
  input  logic acc_valid,
  input  logic [PIX-1:0][LANE-1:0][31:0] acc,
  output logic acc_pop,
  output logic result_valid,
  output logic [PIX*CW*8-1:0] result,
  input  logic result_pop,
  output logic wants_constants,           // accumulators wait for them
  output logic [15:0] result_count
);
  localparam int LATENCY = 2 + 6;         // selection, columns, lanes
  localparam int WORD = WORDS > 1 ? $clog2(WORDS) : 1;
  typedef enum logic [1:0] {IDLE, SETUP, RUN} state_t;
  state_t state;
  layer_t d;
  logic [1:0] setup;
  logic [31:0] rows_cols, pixel_groups, pixel;
  logic [15:0] group;
  logic [WORD-1:0] word;
  logic [7:0] places;
  wire last_word = 32'(word) + 32'd1 == d[F_OUT_WORDS];
  wire last_pixel = pixel + 32'd1 == pixel_groups, last_group = group + 16'd1 == d[F_GROUPS][15:0];
  wire go = state == RUN && acc_valid && block_valid && places != 0;
  wire wanted = next_layer[F_OP] == 32'(OP_CONV) || next_layer[F_OP] == 32'(OP_MAX) || next_layer[F_OP] == 32'(OP_SUM);

  assign layer_pop = layer_valid && state == IDLE && places == 8'(QUEUE);  // constants of a layer stay while it drains
  assign acc_pop = go && last_word;
  assign block_pop = go && last_word && last_pixel;
  assign wants_constants = state == RUN && acc_valid && !block_valid;
  always_ff @(posedge clk) begin
    case (state)
      IDLE: if (layer_pop && wanted) begin
        d <= next_layer;
        state <= SETUP;
        setup <= '0;
      end
      SETUP: begin
        setup <= setup + 2'd1;
        rows_cols <= 32'(d[F_ROWS][15:0]) * 32'(d[F_COLS][15:0]);
        pixel_groups <= rows_cols * 32'(d[F_IMAGES][15:0]);
        {pixel, group, word} <= '0;
        if (setup == 2'd1) state <= RUN;
      end
      default: if (go) begin
        word <= last_word ? '0 : word + 1'b1;
        if (last_word) begin
          pixel <= last_pixel ? 32'd0 : pixel + 32'd1;
          if (last_pixel) group <= group + 16'd1;
          if (last_pixel && last_group) state <= IDLE;
        end
      end
    endcase
    places <= places - 8'(go) + 8'(result_pop);
    if (reset) begin
      state <= IDLE;
      places <= 8'(QUEUE);
    end
  end

  logic [PIX-1:0][CW-1:0][31:0] chosen, summed;
  logic [CW*64-1:0] offset, offset2;
  logic [CW*32-1:0] multiplier, multiplier2;
  logic [CW*8-1:0] shift, shift2, tie, tie2;
  logic [PIX*CW*8-1:0] bytes;
  logic [LATENCY:1] valid;
  logic unused_full;
  // the block (par_t of kernels/fpga/overlay.h) is arrays over its lanes: offset, multiplier, shift, tie, spare
  wire unused_spare = ^block[LANE*LANE_BYTES*8-1:LANE*14*8];
  always_ff @(posedge clk) begin
    for (int c = 0; c < CW; c++) begin
      logic [31:0] column;
      for (int w = 0; w < WORDS; w++) if (word == WORD'(w)) begin
        for (int p = 0; p < PIX; p++) chosen[p][c] <= acc[p][w*CW+c];
        offset[c*64 +: 64] <= block[(w*CW+c)*64 +: 64];
        multiplier[c*32 +: 32] <= block[LANE*64+(w*CW+c)*32 +: 32];
        shift[c*8 +: 8] <= block[LANE*96+(w*CW+c)*8 +: 8];
        tie[c*8 +: 8] <= block[LANE*104+(w*CW+c)*8 +: 8];
      end
      column = '0;
      for (int p = 0; p < PIX; p++) column = column + chosen[p][c];
      for (int p = 0; p < PIX; p++) summed[p][c] <= d[F_OP] == 32'(OP_SUM) ? column : chosen[p][c];
    end
    {offset2, multiplier2, shift2, tie2} <= {offset, multiplier, shift, tie};
    valid <= reset ? '0 : {valid[LATENCY-1:1], go};
  end
  requant_lanes #(.COLUMNS(PIX), .LANES(CW), .ACC_BITS(ACC_BITS), .MUL_BITS(MUL_BITS)) lanes (
    .clk, .valid(valid[2]), .acc(summed), .offset(offset2), .multiplier(multiplier2), .shift(shift2), .tie(tie2),
    .increment(d[F_INCREMENT][0]), .low(d[F_LOW][7:0]), .high(d[F_HIGH][7:0]), .out(bytes)
  );
  fifo #(.WIDTH(PIX*CW*8), .DEPTH(QUEUE)) results (
    .clk, .reset, .push(valid[LATENCY]), .in(bytes), .full(unused_full), .valid(result_valid), .out(result),
    .pop(result_pop), .count(result_count)
  );
endmodule
