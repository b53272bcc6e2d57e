// Walks a layer's windows and makes the addresses: each cycle one vector of channels for each of PIX pixels of a row.
// Pixel x lies in bank x mod PIX, so neighbours (PIX is odd: also every second one) are read together. All addresses
// grow by additions; what needs a multiplication or a division by PIX is made once, while the layer before it drains.
module sender import overlay_pkg::*; #(
  parameter int PIX = 7, BITS = 12, localparam int BANK = $clog2(PIX)
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
  localparam int BIAS = 64;               // pixel groups; keeps x positive
  typedef logic signed [15:0] pixel_t;
  typedef logic [23:0] word_t;            // addresses wrap harmlessly where padding lies
  typedef enum logic [1:0] {IDLE, SETUP, WAIT, RUN} state_t;
  state_t state;
  layer_t d;

  // once a layer
  logic [3:0] setup;
  pixel_t setup_x;                        // of pixel `setup`, before bias
  word_t row_step, y_step, x_step, first_row;
  pixel_t pixel_step;
  logic [PIX-1:0][BANK-1:0] first_bank, now_bank;
  word_t [PIX-1:0] first_offset, now_offset;
  pixel_t [PIX-1:0] first_x, now_x;
  wire [15:0] biased = 16'(setup_x) + 16'(BIAS * PIX);
  wire [15:0] block_of = biased / 16'(PIX);
  // counters, innermost first, and the addresses that belong to them
  logic [15:0] cv, kx, ky, xg, y, n, group;
  word_t vec_address, image_address, row_address, group_address, tap_address, now_address;
  pixel_t in_y, first_y, group_x;
  wire last_cv = cv + 16'd1 == d[F_RED_VECS][15:0], last_kx = kx + 16'd1 == d[F_TAPS_X][15:0];
  wire last_ky = ky + 16'd1 == d[F_TAPS_Y][15:0], last_xg = xg + 16'd1 == d[F_COLS][15:0];
  wire last_y = y + 16'd1 == d[F_ROWS][15:0], last_n = n + 16'd1 == d[F_IMAGES][15:0];
  wire last_group = group + 16'd1 == d[F_GROUPS][15:0];
  wire go = state == RUN && room;
  wire word_t images_start = vec_address + (last_n ? word_t'(d[F_GROUP_VECS]) : '0);
  wire word_t image_start = last_n ? images_start + first_row : image_address + word_t'(d[F_IN_STEP]);
  // stage 1: for each pixel where it lies; stage 2: for each bank what it reads
  logic sent1, row_in_map;
  logic [PIX-1:0][BANK-1:0] bank1;
  logic [PIX-1:0][BITS-1:0] address1;
  logic [PIX-1:0] in_map1;

  assign layer_pop = state == IDLE && layer_valid && !sent1 && !read;
  assign in_mem = d[F_IN_MEM][0];
  assign store = d[F_OP] == 32'(OP_STORE);
  assign pad_value = d[F_PAD_VALUE][7:0];
  assign row_in_map = in_y >= 0 && in_y < pixel_t'(d[F_IN_H]);

  always_ff @(posedge clk) begin
    case (state)
      IDLE: if (layer_pop) begin
        d <= next_layer;
        setup <= '0;
        setup_x <= -pixel_t'(next_layer[F_PAD_X]);
        if (next_layer[F_OP] != 32'(OP_LOAD) && next_layer[F_OP] != 32'(OP_END)) state <= SETUP;
      end
      SETUP: begin
        setup <= setup + 4'd1;
        setup_x <= setup_x + pixel_t'(d[F_STRIDE_X]);
        for (int p = 0; p < PIX; p++) if (setup == 4'(p)) begin
          first_bank[p] <= BANK'(biased - block_of * 16'(PIX));
          first_offset[p] <= word_t'($signed(block_of - 16'(BIAS))) * word_t'(d[F_IN_VECS]);
          first_x[p] <= setup_x;
        end
        row_step <= word_t'(d[F_IN_COLS][15:0]) * word_t'(d[F_IN_VECS][15:0]);
        x_step <= word_t'(d[F_STRIDE_X][15:0]) * word_t'(d[F_IN_VECS][15:0]);
        pixel_step <= pixel_t'(d[F_STRIDE_X]) * pixel_t'(PIX);
        y_step <= row_step * word_t'(d[F_STRIDE_Y][15:0]);
        first_row <= word_t'(d[F_IN_BASE]) - row_step * word_t'(d[F_PAD_Y][15:0]);
        if (setup == 4'(PIX > 3 ? PIX - 1 : 3)) state <= WAIT;
      end
      WAIT: if (clear_to_run) state <= RUN;
      default: if (go && last_cv && last_kx && last_ky && last_xg && last_y && last_n && last_group) state <= IDLE;
    endcase
    if (state == WAIT) begin
      {cv, kx, ky, xg, y, n, group} <= '0;
      vec_address <= '0;
      {image_address, row_address, group_address, tap_address, now_address} <= {5{first_row}};
      in_y <= -pixel_t'(d[F_PAD_Y]);
      first_y <= -pixel_t'(d[F_PAD_Y]);
      group_x <= '0;
      now_bank <= first_bank;
      now_offset <= first_offset;
      now_x <= first_x;
    end else if (go) begin
      cv <= last_cv ? 16'd0 : cv + 16'd1;
      now_address <= now_address + 24'd1;
      if (last_cv) begin                                         // the next tap of the row
        kx <= last_kx ? 16'd0 : kx + 16'd1;
        now_address <= tap_address;
        for (int p = 0; p < PIX; p++)
          if (last_kx) begin
            now_bank[p] <= first_bank[p];
            now_offset[p] <= first_offset[p];
            now_x[p] <= first_x[p];
          end else begin
            now_x[p] <= now_x[p] + pixel_t'(d[F_TAP_STEP]);
            if (d[F_TAP_STEP] != 32'd1 || now_bank[p] == BANK'(PIX - 1))
              now_offset[p] <= now_offset[p] + word_t'(d[F_IN_VECS]);
            if (d[F_TAP_STEP] == 32'd1) now_bank[p] <= now_bank[p] == BANK'(PIX - 1) ? '0 : now_bank[p] + 1'b1;
          end
        if (last_kx) begin                                       // the window's next row
          ky <= last_ky ? 16'd0 : ky + 16'd1;
          in_y <= last_ky ? first_y : in_y + 16'sd1;
          tap_address <= tap_address + row_step;
          now_address <= tap_address + row_step;
          if (last_ky) begin                                     // the next pixel group
            xg <= last_xg ? 16'd0 : xg + 16'd1;
            group_x <= last_xg ? 16'sd0 : group_x + pixel_step;
            {group_address, tap_address, now_address} <= {3{group_address + x_step}};
            if (last_xg) begin                                   // the next row
              y <= last_y ? 16'd0 : y + 16'd1;
              in_y <= last_y ? -pixel_t'(d[F_PAD_Y]) : first_y + pixel_t'(d[F_STRIDE_Y]);
              first_y <= last_y ? -pixel_t'(d[F_PAD_Y]) : first_y + pixel_t'(d[F_STRIDE_Y]);
              {row_address, group_address, tap_address, now_address} <= {4{row_address + y_step}};
              if (last_y) begin                                  // the next image, then the next channels
                n <= last_n ? 16'd0 : n + 16'd1;
                if (last_n) group <= group + 16'd1;
                vec_address <= images_start;
                {image_address, row_address, group_address, tap_address, now_address} <= {5{image_start}};
              end
            end
          end
        end
      end
    end
    sent1 <= go;
    bank1 <= now_bank;
    for (int p = 0; p < PIX; p++) begin
      address1[p] <= BITS'(now_address + now_offset[p]);
      in_map1[p] <= row_in_map && now_x[p] + group_x >= 0 && now_x[p] + group_x < pixel_t'(d[F_IN_W]);
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
