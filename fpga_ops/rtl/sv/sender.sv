// Walks a layer's windows and makes the addresses: each cycle one vector of channels for each of PIX pixels. Pixel i of a
// map (rows follow each other every in_pitch pixels) lies in bank i mod PIX, so neighbours (PIX is odd: also every second
// one) are read together. The pixels of a group are those of a row, or where `wrap` says so go on in the next one: then
// source and result have the same rows, so the group's positions stay neighbours for every tap, and only what is padding
// differs from pixel to pixel. All positions grow by additions; what needs a multiplication or a division by PIX is made
// once, while the layer before it drains.
module sender import overlay_pkg::*; #(
  parameter int PIX = 7, BITS = 12, localparam int BANK = PIX > 1 ? $clog2(PIX) : 1
) (
  input  logic clk, reset,
  input  logic layer_valid,
  input  layer_t next_layer,
  output logic layer_pop,
  input  logic clear_to_run,              // every earlier layer's results are in the maps
  input  logic room,                      // the queue takes what is under way and one more
  output logic in_mem, store,
  output logic [7:0] pad_value,
  output logic read,                      // with address, an address for each bank
  output logic [PIX-1:0][BITS-1:0] address,
  output logic [PIX-1:0][BANK-1:0] bank,  // of each pixel
  output logic [PIX-1:0] in_map
);
  localparam int BIAS = 1 << 14;          // pixel groups; keeps the divided number positive
  typedef logic signed [15:0] pixel_t;
  typedef logic [23:0] word_t;            // addresses wrap harmlessly where padding lies
  typedef struct packed {word_t word; logic [BANK:0] rest;} place_t;  // pixel `rest` of the group that begins at `word`
  typedef enum logic [1:0] {IDLE, SETUP, WAIT, RUN} state_t;
  state_t state;
  layer_t d;
  function automatic place_t moved(input place_t from, input place_t by, input word_t vecs);
    logic [BANK+1:0] rest;
    rest = {1'b0, from.rest} + {1'b0, by.rest};
    moved.word = from.word + by.word + (rest >= (BANK+2)'(PIX) ? vecs : '0);
    moved.rest = (BANK+1)'(rest >= (BANK+2)'(PIX) ? rest - (BANK+2)'(PIX) : rest);
  endfunction

  // once a layer: a number of pixels a cycle is divided by PIX, and becomes a place in the next
  logic [4:0] setup;
  logic [23:0] divide, quotient;
  logic [BANK:0] rest;
  pixel_t setup_x, setup_y, x_step, y_step;       // of pixel `setup` of a group; from a group to the next
  place_t divided, start, tap_step, row_step, y_place;
  place_t [PIX-1:0] relative;                     // of pixel 0, of the others as distance from it
  pixel_t [PIX-1:0] first_x, first_y, x, y_in_group;
  wire word_t vecs = word_t'(d[F_IN_VECS][15:0]);
  wire goes_on = d[F_WRAP] != 0 && 32'(setup_x) + 32'd1 == d[F_WRAP];
  always_comb begin
    divide = 24'(BIAS * PIX);
    if (setup < 5'(PIX)) divide += 24'(setup) * 24'(d[F_STRIDE_X][15:0]);
    else if (setup == 5'(PIX)) divide += 24'(d[F_STACK][15:0]) * 24'(d[F_IN_PITCH][15:0]);
    else if (setup == 5'(PIX + 1)) divide += 24'(d[F_STRIDE_Y][15:0]) * 24'(d[F_IN_PITCH][15:0]);
    else divide -= d[F_PAD_Y][23:0] * 24'(d[F_IN_PITCH][15:0]) + 24'(d[F_PAD_X][15:0]);  // it may be below 0
    divided.word = (quotient - 24'(BIAS)) * vecs;
    divided.rest = rest;
  end
  // counters, innermost first, and the places that belong to them
  logic [15:0] cv, kx, ky, xg, y, n, group;
  word_t vec_address;
  place_t image_place, row_place, group_place, window_place, tap_place;
  pixel_t tap_x, tap_y, row_y;
  wire last_cv = cv + 16'd1 == d[F_RED_VECS][15:0], last_kx = kx + 16'd1 == d[F_TAPS_X][15:0];
  wire last_ky = ky + 16'd1 == d[F_TAPS_Y][15:0], last_xg = xg + 16'd1 == d[F_COLS][15:0];
  wire last_y = y + 16'd1 == d[F_ROWS][15:0], last_n = n + 16'd1 == d[F_IMAGES][15:0];
  wire last_group = group + 16'd1 == d[F_GROUPS][15:0];
  wire go = state == RUN && room;
  place_t next_image, next_row, next_group, next_window;
  always_comb begin
    next_image = image_place;
    next_image.word = last_n ? start.word + vec_address + word_t'(d[F_GROUP_VECS]) : image_place.word + word_t'(d[F_IN_STEP]);
    next_row = moved(row_place, y_place, vecs);
    next_group = group_place;
    next_group.word = group_place.word + word_t'(d[F_STRIDE_X][15:0]) * vecs;
    next_window = moved(window_place, row_step, vecs);
  end
  // stage 1: for each pixel where it lies; stage 2: for each bank what it reads
  logic sent1;
  logic [PIX-1:0][BANK-1:0] bank1;
  logic [PIX-1:0][BITS-1:0] address1;
  logic [PIX-1:0] in_map1;

  assign layer_pop = state == IDLE && layer_valid && !sent1 && !read;
  assign in_mem = d[F_IN_MEM][0];
  assign store = d[F_OP] == 32'(OP_STORE);
  assign pad_value = d[F_PAD_VALUE][7:0];

  always_ff @(posedge clk) begin
    case (state)
      IDLE: if (layer_pop) begin
        d <= next_layer;
        setup <= '0;
        {setup_x, setup_y} <= '0;
        if (next_layer[F_OP] != 32'(OP_LOAD) && next_layer[F_OP] != 32'(OP_END)) state <= SETUP;
      end
      SETUP: begin
        setup <= setup + 5'd1;
        quotient <= divide / 24'(PIX);
        rest <= (BANK+1)'(divide % 24'(PIX));
        if (setup < 5'(PIX)) begin
          setup_x <= goes_on ? 16'sd0 : setup_x + pixel_t'(d[F_STRIDE_X]);
          if (goes_on) setup_y <= setup_y + 16'sd1;
        end
        for (int p = 0; p < PIX; p++) begin
          if (setup == 5'(p)) {first_x[p], first_y[p]} <= {setup_x, setup_y};
          if (setup == 5'(p + 1)) relative[p] <= divided;
        end
        if (setup == 5'(PIX)) {x_step, y_step} <= {setup_x, setup_y};
        if (setup == 5'(PIX + 1)) row_step <= divided;
        if (setup == 5'(PIX + 2)) y_place <= divided;
        if (setup == 5'(PIX + 3)) begin
          start <= divided;
          start.word <= divided.word + word_t'(d[F_IN_BASE]);
          state <= WAIT;
        end
        tap_step <= d[F_TAP_STEP] == 32'd1 ? {24'd0, (BANK+1)'(1 % PIX)} : {vecs, (BANK+1)'(0)};
        if (PIX == 1) tap_step <= {vecs, (BANK+1)'(0)};
      end
      WAIT: if (clear_to_run) state <= RUN;
      default: if (go && last_cv && last_kx && last_ky && last_xg && last_y && last_n && last_group) state <= IDLE;
    endcase
    if (state == WAIT) begin
      {cv, kx, ky, xg, y, n, group} <= '0;
      vec_address <= '0;
      {image_place, row_place, group_place, window_place, tap_place} <= {5{start}};
      tap_x <= -pixel_t'(d[F_PAD_X]);
      tap_y <= -pixel_t'(d[F_PAD_Y]);
      row_y <= '0;
      {x, y_in_group} <= {first_x, first_y};
    end else if (go) begin
      cv <= last_cv ? 16'd0 : cv + 16'd1;
      if (last_cv) begin                                         // the next tap of the row
        kx <= last_kx ? 16'd0 : kx + 16'd1;
        tap_x <= last_kx ? -pixel_t'(d[F_PAD_X]) : tap_x + pixel_t'(d[F_TAP_STEP]);
        tap_place <= moved(tap_place, tap_step, vecs);
        if (last_kx) begin                                       // the window's next row
          ky <= last_ky ? 16'd0 : ky + 16'd1;
          tap_y <= last_ky ? -pixel_t'(d[F_PAD_Y]) : tap_y + pixel_t'(d[F_STACK]);
          {window_place, tap_place} <= {2{next_window}};
          if (last_ky) begin                                     // the next pixel group
            xg <= last_xg ? 16'd0 : xg + 16'd1;
            {group_place, window_place, tap_place} <= {3{next_group}};
            for (int p = 0; p < PIX; p++) begin
              x[p] <= x[p] + x_step;
              y_in_group[p] <= y_in_group[p] + y_step;
              if (d[F_WRAP] != 0 && 32'(x[p]) + 32'(x_step) >= d[F_WRAP]) begin
                x[p] <= x[p] + x_step - pixel_t'(d[F_WRAP]);
                y_in_group[p] <= y_in_group[p] + y_step + 16'sd1;
              end
            end
            if (last_xg) begin                                   // the next row
              y <= last_y ? 16'd0 : y + 16'd1;
              row_y <= last_y ? 16'sd0 : row_y + pixel_t'(d[F_STRIDE_Y]);
              {row_place, group_place, window_place, tap_place} <= {4{next_row}};
              {x, y_in_group} <= {first_x, first_y};
              if (last_y) begin                                  // the next image, then the next channels
                n <= last_n ? 16'd0 : n + 16'd1;
                if (last_n) begin
                  group <= group + 16'd1;
                  vec_address <= vec_address + word_t'(d[F_GROUP_VECS]);
                end
                {image_place, row_place, group_place, window_place, tap_place} <= {5{next_image}};
              end
            end
          end
        end
      end
    end
    sent1 <= go;
    for (int p = 0; p < PIX; p++) begin
      place_t at;
      pixel_t map_x, map_y;
      at = moved(tap_place, relative[p], vecs);
      map_x = x[p] + tap_x;
      map_y = y_in_group[p] + row_y + tap_y;
      bank1[p] <= BANK'(at.rest);
      address1[p] <= BITS'(at.word + word_t'(cv));
      in_map1[p] <= map_x >= 0 && map_x < pixel_t'(d[F_IN_W]) && map_y >= 0 && map_y < pixel_t'(d[F_IN_H]);
    end
    read <= sent1;
    bank <= bank1;
    in_map <= in_map1;
    for (int b = 0; b < PIX; b++)
      for (int p = 0; p < PIX; p++) if (bank1[p] == BANK'(b)) address[b] <= address1[p];
    if (reset) begin
      state <= IDLE;
      sent1 <= 1'b0;
      read <= 1'b0;
    end
  end
endmodule
