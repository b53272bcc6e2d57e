// PIX x LANE x VEC multiply-accumulates a cycle, and the weights they use, double-buffered: while one part of a
// reduction is used the next (of this group, the next group or the next convolution) is loaded. Groups follow each other
// without a gap. Pooling runs through the same accumulators. A finished group of pixels goes to a queue of QUEUE
// places, each given away when its last step begins, so nothing here ever stops half-way.
module array import overlay_pkg::*; #(
  parameter int VEC = 32, LANE = 64, PIX = 7, WB = 64, TILES = 512, FORM = PLAIN, QUEUE = 8,
  localparam int WPT = LANE * VEC / WB
) (
  input  logic clk, reset,
  input  logic layer_valid,
  input  layer_t next_layer,
  output logic layer_pop,
  input  logic weight_valid,
  input  logic [WB*8-1:0] weight_word,
  output logic weight_pop,
  input  logic act_valid,
  input  logic [PIX-1:0][VEC-1:0][7:0] act,
  output logic act_pop,
  output logic acc_valid,
  output logic [PIX-1:0][LANE-1:0][31:0] acc,
  input  logic acc_pop,
  output logic wants_weights, wants_acts, // waits for nothing else
  output logic [15:0] acc_count
);
  localparam int LATENCY = latency(FORM, VEC);
  localparam int TILE = TILES > 1 ? $clog2(TILES) : 1, WORD = WPT > 1 ? $clog2(WPT) : 1;
  typedef enum logic [1:0] {IDLE, SETUP, RUN} state_t;
  state_t state;
  layer_t d;
  logic [1:0] setup;

  // the part under way
  logic [31:0] rows_cols, pixel_groups, pixel;
  logic [15:0] k, part_k, groups, group, part, load_left;
  logic current, steps_done, load_done, loads;    // loads: the part loads anything
  logic [TILE-1:0] load_tile;
  logic [WORD-1:0] load_word;
  wire pooling = d[F_OP] != 32'(OP_CONV);
  wire last_part = part + 16'd1 == d[F_PARTS][15:0], last_group = group + 16'd1 == groups;
  wire [15:0] part_len = last_part ? d[F_LAST_ACTS][15:0] : d[F_PART_ACTS][15:0];
  wire last_step = k + 16'd1 == d[F_ACTS][15:0];
  wire last_of_part = part_k + 16'd1 == part_len && pixel + 32'd1 == pixel_groups;
  logic [7:0] places;                     // of the queue, not given away
  wire step = state == RUN && !steps_done && act_valid && (!last_step || places != 0);
  wire load = state == RUN && !load_done && weight_valid;
  wire steps_end = steps_done || (step && last_of_part);
  wire load_end = load_done || (load && load_left == 16'd1);
  wire part_end = state == RUN && steps_end && load_end;
  wire layer_end = part_end && last_part && last_group;

  // words to load while a part is used: those of the next part, of the next group's first, of the next convolution's
  function automatic logic [15:0] to_load(input layer_t l, input logic [15:0] at, input logic final_group);
    if (at + 16'd1 == l[F_PARTS][15:0])
      return final_group ? l[F_NEXT_WORDS][15:0] : l[F_PARTS] == 32'd1 ? l[F_LAST_WORDS][15:0] : l[F_PART_WORDS][15:0];
    return at + 16'd2 == l[F_PARTS][15:0] ? l[F_LAST_WORDS][15:0] : l[F_PART_WORDS][15:0];
  endfunction
  wire [15:0] next_part = last_part ? 16'd0 : part + 16'd1;
  wire [15:0] next_group = last_part ? group + 16'd1 : group;
  wire [15:0] first_load = to_load(d, 16'd0, groups == 16'd1);
  wire [15:0] next_load = to_load(d, next_part, next_group + 16'd1 == groups);

  assign layer_pop = layer_valid && state == IDLE;
  assign act_pop = step;
  assign weight_pop = load;
  assign wants_weights = state == RUN && steps_done && !load_done;
  assign wants_acts = state == RUN && !steps_done && !act_valid;
  always_ff @(posedge clk) begin
    case (state)
      IDLE: if (layer_valid && next_layer[F_OP] != 32'(OP_STORE) && next_layer[F_OP] != 32'(OP_END)) begin
        d <= next_layer;
        state <= SETUP;
        setup <= '0;
      end
      SETUP: begin
        setup <= setup + 2'd1;
        rows_cols <= 32'(d[F_ROWS][15:0]) * 32'(d[F_COLS][15:0]);
        pixel_groups <= rows_cols * 32'(d[F_IMAGES][15:0]);
        groups <= d[F_OP] == 32'(OP_LOAD) ? 16'd1 : d[F_GROUPS][15:0];
        if (setup == 2'd2) begin
          state <= RUN;
          {k, part_k, group, part} <= '0;
          pixel <= '0;
          steps_done <= d[F_OP] == 32'(OP_LOAD);
          load_left <= first_load;
          load_done <= first_load == 0;
          loads <= first_load != 0;
          load_tile <= '0;
          load_word <= '0;
        end
      end
      default: if (layer_end) state <= IDLE;
    endcase
    if (step) begin
      k <= last_step ? 16'd0 : k + 16'd1;
      part_k <= part_k + 16'd1;
      if (part_k + 16'd1 == part_len) begin
        part_k <= '0;
        pixel <= pixel + 32'd1;
      end
      if (last_of_part) steps_done <= 1'b1;
    end
    if (load) begin
      load_left <= load_left - 16'd1;
      if (load_left == 16'd1) load_done <= 1'b1;
      load_word <= load_word == WORD'(WPT - 1) ? '0 : load_word + 1'b1;
      if (load_word == WORD'(WPT - 1)) load_tile <= load_tile + 1'b1;
    end
    if (part_end) begin
      if (loads) current <= !current;
      steps_done <= 1'b0;
      pixel <= '0;
      part <= next_part;
      group <= next_group;
      load_left <= next_load;
      load_done <= next_load == 0;
      loads <= next_load != 0;
      load_tile <= '0;
      load_word <= '0;
    end
    places <= places - 8'(step && last_step) + 8'(acc_pop);
    if (reset) begin
      state <= IDLE;
      current <= 1'b0;
      places <= 8'(QUEUE);
    end
  end

  // weights: one memory a word of the tile, so that a tile is read while a word is written
  logic [WPT-1:0][WB*8-1:0] tile;
  wire [TILE-1:0] use_tile = pooling ? '0 : TILE'(part_k);
  for (genvar q = 0; q < WPT; q++) begin : words
    logic [WB*8-1:0] memory [2 << TILE];
    always_ff @(posedge clk) begin
      if (load && load_word == WORD'(q)) memory[{!current, load_tile}] <= weight_word;
      if (step) tile[q] <= memory[{current, use_tile}];
    end
  end

  // the pipeline: operands, products, accumulators
  typedef struct packed {logic valid, first, last, pool, maximum;} tag_t;
  tag_t tag, late;
  logic [PIX-1:0][VEC-1:0][7:0] act1, pooled;
  logic [23:0] dot [PIX][LANE];
  logic [31:0] sum [PIX][LANE], next [PIX][LANE];
  logic done;
  logic unused_full;
  always_ff @(posedge clk) begin
    tag <= '{valid: step, first: k == 0, last: last_step, pool: pooling, maximum: d[F_OP] == 32'(OP_MAX)};
    if (step) act1 <= act;
    if (reset) tag.valid <= 1'b0;
  end
  products #(.VEC(VEC), .LANE(LANE), .PIX(PIX), .FORM(FORM)) multipliers (
    .clk, .valid(tag.valid && !tag.pool), .act(act1), .weight(tile), .dot
  );
  delay #(.WIDTH($bits(tag_t)), .CYCLES(LATENCY)) tags (.clk, .in(tag), .out(late));
  delay #(.WIDTH(PIX*VEC*8), .CYCLES(LATENCY)) bytes (.clk, .in(act1), .out(pooled));
  always_comb begin
    next = sum;
    if (late.valid && !late.pool) begin
      for (int p = 0; p < PIX; p++) for (int l = 0; l < LANE; l++)
        next[p][l] = (late.first ? 32'd0 : sum[p][l]) + {{8{dot[p][l][23]}}, dot[p][l]};
    end else if (late.valid) begin
      for (int p = 0; p < PIX; p++) for (int v = 0; v < VEC; v++)
        if (late.first) next[p][v] = {24'b0, pooled[p][v]};
        else if (!late.maximum) next[p][v] = sum[p][v] + {24'b0, pooled[p][v]};
        else if ({24'b0, pooled[p][v]} > sum[p][v]) next[p][v] = {24'b0, pooled[p][v]};
    end
  end
  logic [PIX-1:0][LANE-1:0][31:0] packed_sum;
  always_comb for (int p = 0; p < PIX; p++) for (int l = 0; l < LANE; l++) packed_sum[p][l] = sum[p][l];
  always_ff @(posedge clk) begin
    sum <= next;
    done <= late.valid && late.last && !reset;
  end
  fifo #(.WIDTH(PIX*LANE*32), .DEPTH(QUEUE)) finished (
    .clk, .reset, .push(done), .in(packed_sum), .full(unused_full), .valid(acc_valid), .out(acc), .pop(acc_pop),
    .count(acc_count)
  );
endmodule
