// Windows of raw images. Rows of row_bytes bytes follow each other in 64-byte words; pixel p of a group of PIX gets
// byte_taps bytes from (xg PIX + p) byte_step - byte_pad of its row on: what a row of a convolution's window needs, or a
// pixel's own planes. Positions outside the row are pad_value, bytes beyond the window 0.
//
// First the rows are aligned: a word of a row is cut from two words of the stream. Then `span` holds the row from the
// group's first position on, and moves by PIX byte_step a group. Rows of all images follow each other.
module former import overlay_pkg::*; #(
  parameter int PIX = 7, VEC = 32, CW = 32, localparam int NH = VEC / CW, WORD = PIX * CW
) (
  input  logic clk, start, stop,
  input  layer_t layer,                   // the LOAD, from `start` on
  input  logic in_valid,
  output logic in_ready,
  input  logic [PORT*8-1:0] in,
  output logic out_valid,
  input  logic out_ready,
  output logic [WORD*8-1:0] out
);
  localparam int STEP = 8;                // largest byte_step
  localparam int SPAN = (PIX - 1) * STEP + VEC + PORT;
  localparam int BITS = $clog2(SPAN + 1), AT = $clog2(PORT);
  typedef logic signed [23:0] position_t;
  // aligner
  logic [PORT*8-1:0] previous;              // the word of the stream that came last
  logic [AT-1:0] offset;                  // of the row's first byte in its word
  logic fresh;                            // `previous` has nothing of this row yet
  position_t cut;                         // bytes of the row that were cut
  logic [31:0] rows_left;
  logic cut_valid;
  logic [PORT*8-1:0] cut_word;
  // span
  logic [SPAN-1:0][7:0] span, moved, filled;
  logic [BITS-1:0] fill, kept;            // bytes in it
  position_t base, position, row_left;    // position of span[0]; what of the row is not in the span yet
  logic [15:0] xg, sub;

  wire position_t row_bytes = position_t'(layer[F_ROW_BYTES]);
  wire [7:0] byte_step = layer[F_BYTE_STEP][7:0], byte_taps = layer[F_BYTE_TAPS][7:0];
  // a cut needs the next word unless the row ends within the previous one
  wire inside_previous = !fresh && position_t'(PORT) - position_t'({1'b0, offset}) >= row_bytes - cut;
  wire cut_ready = !cut_valid || put;
  wire can_cut = rows_left != 0 && cut_ready && !fresh && (in_valid || inside_previous);
  wire row_cut = can_cut && cut + position_t'(PORT) >= row_bytes;
  wire [AT-1:0] next_offset = offset + layer[F_ROW_BYTES][AT-1:0];

  wire last_sub = sub + 16'd1 == 16'(NH), last_xg = xg + 16'd1 == layer[F_COLS][15:0];
  // a group waits for its bytes; the last of a row for the row's end, needed or not
  wire [31:0] need = 32'(PIX - 1) * 32'(byte_step) + 32'(byte_taps > byte_step ? byte_taps : byte_step);
  wire enough = row_left <= 0 || (!last_xg && 32'(fill) >= need);
  wire give = out_valid && out_ready && last_sub;
  wire fits = 32'(kept) + PORT <= SPAN;   // where it does not, what the row's last group needs is here
  wire put = cut_valid && row_left > 0 && !(give && last_xg) && (fits || last_xg);

  assign in_ready = rows_left != 0 && cut_ready && (fresh || !inside_previous);
  assign out_valid = enough;
  assign kept = !give ? fill : 32'(fill) > 32'(PIX) * 32'(byte_step) ? fill - BITS'(32'(PIX) * 32'(byte_step)) : '0;
  always_comb begin
    moved = span;
    for (int s = 1; s <= STEP; s++) if (give && byte_step == 8'(s)) moved = span >> (PIX * s * 8);
    filled = moved;
    if (put) for (int b = 0; b <= SPAN - PORT; b++) if (kept == BITS'(b)) filled[b +: PORT] = cut_word;
    out = '0;
    position = '0;
    if (out_valid) for (int p = 0; p < PIX; p++) for (int c = 0; c < CW; c++) begin
      position = base + position_t'(p) * position_t'({1'b0, byte_step}) + position_t'(32'(sub) * CW) + position_t'(c);
      if (position < 0 || position >= row_bytes) out[(p*CW+c)*8 +: 8] = layer[F_PAD_VALUE][7:0];
      else for (int s = 1; s <= STEP; s++) for (int h = 0; h < NH; h++)
        if (byte_step == 8'(s) && sub == 16'(h)) out[(p*CW+c)*8 +: 8] = span[p*s+h*CW+c];
      if (32'(sub) * CW + c >= 32'(byte_taps)) out[(p*CW+c)*8 +: 8] = '0;
    end
  end
  always_ff @(posedge clk) begin
    if (in_valid && in_ready) previous <= in;
    if (fresh && in_valid && in_ready) fresh <= 1'b0;
    if (put) cut_valid <= 1'b0;
    if (can_cut) begin
      cut_valid <= 1'b1;
      cut_word <= (PORT*8)'({in, previous} >> (32'(offset) * 8));
      cut <= cut + position_t'(PORT);
      if (row_cut) begin                  // the next row begins in the word that is `previous` now, or after it
        cut <= '0;
        offset <= next_offset;
        rows_left <= rows_left - 32'd1;
        fresh <= next_offset == 0;
      end
    end
    span <= filled;
    fill <= put && fits ? kept + BITS'(PORT) : kept;
    if (put) row_left <= row_left - position_t'(PORT);
    if (out_valid && out_ready) sub <= last_sub ? 16'd0 : sub + 16'd1;
    if (give) begin
      base <= base + position_t'(32'(PIX) * 32'(byte_step));
      xg <= last_xg ? 16'd0 : xg + 16'd1;
    end
    if (start || (give && last_xg)) begin
      base <= -position_t'(layer[F_BYTE_PAD]);
      fill <= BITS'(layer[F_BYTE_PAD]);
      row_left <= row_bytes;
      xg <= '0;
    end
    if (start) begin
      sub <= '0;
      cut <= '0;
      cut_valid <= 1'b0;
      offset <= '0;
      fresh <= 1'b1;
      rows_left <= layer[F_IMAGES] * (layer[F_ROWS] - layer[F_STACK] + 32'd1);
    end
    if (stop) begin
      rows_left <= '0;
      cut_valid <= 1'b0;
    end
  end
endmodule
