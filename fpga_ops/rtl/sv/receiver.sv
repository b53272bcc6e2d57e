// Takes the results of a layer (of a LOAD: the image), adds the residual operand and writes the maps. A result passes in
// LATENCY cycles, whatever comes; the operand's word is read before the result is written, also where the two are one.
// A row may begin in any bank: results are turned so that each is at its bank, and what lies beyond the row is not written.
module receiver import overlay_pkg::*; #(
  parameter int PIX = 7, CW = 32, NH = 1, BITS = 12, MUL_BITS = 31,
  localparam int WORD = PIX * CW * 8, VECTOR = NH * CW * 8
) (
  input  logic clk, reset,
  input  logic layer_valid,
  input  layer_t next_layer,
  output logic layer_pop,
  input  logic sender_is_here,            // the sender has done all earlier layers: a LOAD may overwrite what they read
  input  logic stored,                    // the sink has a STORE's last word
  input  logic image_valid,
  input  logic [WORD-1:0] image_word,
  output logic image_pop,
  input  logic result_valid,
  input  logic [WORD-1:0] result_word,
  output logic result_pop,
  output logic skip_read, skip_mem,
  output logic [PIX-1:0][BITS-1:0] skip_address,  // of each bank
  input  logic [PIX-1:0][VECTOR-1:0] skip_data,   // two cycles after its address
  output logic [1:0][PIX-1:0][NH-1:0] write,
  output logic [PIX-1:0][BITS-1:0] write_address,
  output logic [WORD-1:0] write_data,
  output logic layer_done,
  output logic ending
);
  typedef logic [23:0] word_t;
  localparam int ADD = 4, LATENCY = 3 + ADD;
  localparam int HALF = NH > 1 ? $clog2(NH) : 1, BANK = $clog2(PIX) + 1;
  typedef struct packed {
    logic last;
    logic [PIX-1:0] keep;                         // by bank
    logic [PIX-1:0][BITS-1:0] address;
    logic [HALF-1:0] half;
  } tag_t;
  layer_t d;
  logic running, taking;
  logic [1:0] setup;
  logic [BANK-1:0] rest, row_rest, step_rest, rest1;  // the bank of a group's first pixel; of the row's; from row to row
  logic [31:0] left;                              // pixels of the row from this group's first on
  word_t row_start, row_step;
  logic [23:0] row_groups;
  logic [15:0] word, first, xg, y, n, group;      // word: among those of a pixel
  word_t row, image, skip_image;
  logic [WORD-1:0] value, operand, turned, early [3];
  tag_t entry;
  tag_t [LATENCY:1] tag;                          // tag[i]: what is i cycles from its entry
  wire loading = d[F_OP] == 32'(OP_LOAD);
  wire last_word = word + 16'd1 == first + d[F_OUT_WORDS][15:0];
  wire last_xg = xg + 16'd1 == d[F_COLS][15:0], last_y = y + 16'd1 == d[F_ROWS][15:0];
  wire last_n = n + 16'd1 == d[F_IMAGES][15:0], last_group = group + 16'd1 == d[F_GROUPS][15:0];
  wire take = taking && setup == 0 && (loading ? image_valid && sender_is_here : result_valid);
  wire [15:0] vec = 16'(word / 16'(NH));
  wire last = last_word && last_xg && last_y && last_n && last_group;
  wire keep = vec < d[F_OUT_VECS][15:0];          // lanes beyond the last channel are dropped

  word_t [PIX-1:0] over;                          // to the next word, where a bank is before the group's first
  wire [BANK-1:0] next_rest = row_rest + step_rest;

  assign image_pop = take && loading;
  assign result_pop = take && !loading;
  assign layer_pop = layer_valid && !running && !ending;
  always_ff @(posedge clk) begin
    layer_done <= tag[LATENCY].last || (running && stored);
    if (layer_pop) begin
      d <= next_layer;
      ending <= next_layer[F_OP] == 32'(OP_END);
      running <= next_layer[F_OP] != 32'(OP_END);
      taking <= next_layer[F_OP] != 32'(OP_END) && next_layer[F_OP] != 32'(OP_STORE);
      {word, first, xg, y, n, group} <= '0;
      {row, row_start, rest, row_rest} <= '0;
      left <= next_layer[F_OUT_PITCH];
      setup <= 2'd2;
      image <= word_t'(next_layer[F_OUT_BASE]);
      skip_image <= word_t'(next_layer[F_SKIP_BASE]);
    end else if (layer_done) running <= 1'b0;
    if (take) begin
      if (last) taking <= 1'b0;
      word <= last_word ? first : word + 16'd1;
      if (last_word) begin
        xg <= last_xg ? 16'd0 : xg + 16'd1;
        row <= row + word_t'(d[F_OUT_VECS]);
        left <= left - 32'(PIX);
        if (last_xg) begin
          y <= last_y ? 16'd0 : y + 16'd1;
          left <= d[F_OUT_PITCH];
          {row, row_start} <= {2{row_start + row_step + (next_rest >= BANK'(PIX) ? word_t'(d[F_OUT_VECS]) : '0)}};
          {rest, row_rest} <= {2{next_rest >= BANK'(PIX) ? next_rest - BANK'(PIX) : next_rest}};
          if (last_y) begin
            {row, row_start, rest, row_rest} <= '0;
            n <= last_n ? 16'd0 : n + 16'd1;
            image <= last_n ? word_t'(d[F_OUT_BASE]) : image + word_t'(d[F_OUT_STEP]);
            skip_image <= last_n ? word_t'(d[F_SKIP_BASE]) : skip_image + word_t'(d[F_SKIP_STEP]);
            if (last_n) begin
              group <= group + 16'd1;
              first <= first + d[F_OUT_WORDS][15:0];
              word <= first + d[F_OUT_WORDS][15:0];
            end
          end
        end
      end
    end
    if (setup != 0) setup <= setup - 2'd1;
    row_groups <= d[F_OUT_PITCH][23:0] / 24'(PIX);
    step_rest <= BANK'(d[F_OUT_PITCH][23:0] % 24'(PIX));
    row_step <= row_groups * word_t'(d[F_OUT_VECS]);
    // 1: addresses; 2: turned; 3: the operand is here; 3 + ADD: the sum
    early[0] <= loading ? image_word : result_word;
    rest1 <= rest;
    early[1] <= turned;
    early[2] <= early[1];
    skip_read <= take && d[F_ADD][0];
    for (int b = 0; b < PIX; b++) skip_address[b] <= BITS'(skip_image + row + word_t'(vec) + over[b]);
    tag <= {tag[LATENCY-1:1], entry};
    if (reset) begin
      running <= 1'b0;
      taking <= 1'b0;
      ending <= 1'b0;
      layer_done <= 1'b0;
      tag <= '0;
    end
  end
  always_comb begin
    turned = '0;
    for (int b = 0; b < PIX; b++) begin
      logic [BANK-1:0] pixel;                       // which of the group's is at this bank
      pixel = BANK'(b) < rest ? BANK'(b + PIX) - rest : BANK'(b) - rest;
      over[b] = BANK'(b) < rest ? word_t'(d[F_OUT_VECS]) : '0;
      entry.keep[b] = take && keep && 32'(pixel) < left;
      entry.address[b] = BITS'(image + row + word_t'(vec) + over[b]);
      for (int p = 0; p < PIX; p++)
        if (BANK'(b) == (BANK'(p) + rest1 >= BANK'(PIX) ? BANK'(p) + rest1 - BANK'(PIX) : BANK'(p) + rest1))
          turned[b*CW*8 +: CW*8] = early[0][p*CW*8 +: CW*8];
    end
    entry.last = take && last;
    entry.half = HALF'(word % 16'(NH));
  end
  assign skip_mem = !d[F_IN_MEM][0];
  always_comb
    for (int p = 0; p < PIX; p++) begin
      operand[p*CW*8 +: CW*8] = '0;
      for (int h = 0; h < NH; h++) if (tag[3].half == HALF'(h)) operand[p*CW*8 +: CW*8] = skip_data[p][h*CW*8 +: CW*8];
    end
  residual_lanes #(.LANES(PIX * CW), .MUL_BITS(MUL_BITS)) lanes (
    .clk, .add(d[F_ADD][0]), .y(early[2]), .r(operand), .first(d[F_ADD_FIRST]), .second(d[F_ADD_SECOND]),
    .offset({d[F_ADD_OFFSET_HIGH], d[F_ADD_OFFSET_LOW]}), .shift(d[F_ADD_SHIFT][5:0]), .tie(d[F_ADD_TIE][7:0]),
    .increment(d[F_ADD_INCREMENT][0]), .low(d[F_ADD_LOW][7:0]), .high(d[F_ADD_HIGH][7:0]), .out(value)
  );
  always_comb begin
    write = '0;
    for (int b = 0; b < PIX; b++) for (int h = 0; h < NH; h++)
      write[d[F_OUT_MEM][0]][b][h] = tag[LATENCY].keep[b] && tag[LATENCY].half == HALF'(h);
    write_address = tag[LATENCY].address;
    write_data = value;
  end
endmodule
